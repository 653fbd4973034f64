package endpoint

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Call is a request to an endpoint, without a body: the app's own way to get quiet.
type Call struct {
	Method   string
	Endpoint Endpoint
}

// String is the method and the URL without what must not be shown.
func (c Call) String() string { return c.Method + " " + c.Endpoint.String() }

// callTimeout bounds one call.
const callTimeout = 2 * time.Second

// Do makes the call once, in callTimeout at the most. An answer of 2xx is a success, a redirect is
// not.
func (c Call) Do(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := c.Endpoint.Request(ctx, c.Method)
	if err != nil {
		return err
	}
	req.Close = true // nobody calls there again
	resp, err := c.Endpoint.Client().Do(req)
	if err != nil {
		return Plain(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // to let it write its answer
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
