package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// errUnknownInstance is a registry's answer to a heartbeat of an instance that it does not hold.
var errUnknownInstance = errors.New("the registry does not know this instance")

// registration is the application's side of a registry's client.
type registration interface {
	register(context.Context) error
	beat(context.Context) error
	deregister(context.Context) error
	// every is the time from one beat to the next.
	every() time.Duration
}

// lookup is the caller's side: the addresses, host:port, to which the registry sends callers of a service now.
type lookup func(ctx context.Context) ([]string, error)

func newRegistration(product, base, service string, self netip.AddrPort) registration {
	if product == "eureka" {
		return eurekaClient{base, service, self}
	}
	return nacosClient{base, service, self}
}

func newLookup(product, base, service string) lookup {
	if product == "eureka" {
		return eurekaClient{base: base, service: service}.lookup
	}
	return nacosClient{base: base, service: service}.lookup
}

// eurekaClient speaks what Netflix's Java client speaks. base is a service URL, with its /eureka.
type eurekaClient struct {
	base, service string
	self          netip.AddrPort
}

func (c eurekaClient) id() string {
	return fmt.Sprintf("%s:%s:%d", c.self.Addr(), c.service, c.self.Port())
}

func (c eurekaClient) every() time.Duration { return eurekaHeartbeat }

func (c eurekaClient) register(ctx context.Context) error {
	type object = map[string]any
	body, err := json.Marshal(object{"instance": object{
		"instanceId": c.id(), "app": strings.ToUpper(c.service), "hostName": c.self.Addr().String(), "ipAddr": c.self.Addr().String(),
		"vipAddress": c.service, "status": "UP",
		"port":           object{"$": c.self.Port(), "@enabled": "true"},
		"dataCenterInfo": object{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
		"leaseInfo":      object{"renewalIntervalInSecs": 30 / scale, "durationInSecs": 90 / scale},
	}})
	if err != nil {
		return err
	}
	return call(ctx, http.MethodPost, c.base+"/apps/"+strings.ToUpper(c.service), "application/json", body, nil)
}

func (c eurekaClient) beat(ctx context.Context) error {
	return call(ctx, http.MethodPut, c.instance()+"?status=UP", "", nil, nil)
}

func (c eurekaClient) deregister(ctx context.Context) error {
	return call(ctx, http.MethodDelete, c.instance(), "", nil, nil)
}

func (c eurekaClient) instance() string {
	return c.base + "/apps/" + strings.ToUpper(c.service) + "/" + url.PathEscape(c.id())
}

// lookup reads the whole list, which the server answers from its read cache as it does the deltas.
func (c eurekaClient) lookup(ctx context.Context) ([]string, error) {
	var answer struct {
		Applications struct {
			Application []struct {
				Name     string
				Instance []struct {
					IPAddr string `json:"ipAddr"`
					Status string
					Port   struct {
						Number json.Number `json:"$"`
					}
				}
			}
		}
	}
	if err := call(ctx, http.MethodGet, c.base+"/apps", "", nil, &answer); err != nil {
		return nil, err
	}
	var up []string
	for _, app := range answer.Applications.Application {
		for _, i := range app.Instance {
			if strings.EqualFold(app.Name, c.service) && i.Status == "UP" {
				up = append(up, i.IPAddr+":"+i.Port.Number.String())
			}
		}
	}
	return up, nil
}

// nacosClient speaks the HTTP API of version 1, which 1.x and 2.x serve. base has the /nacos.
type nacosClient struct {
	base, service string
	self          netip.AddrPort
}

func (c nacosClient) every() time.Duration { return nacosHeartbeat }

func (c nacosClient) query() url.Values {
	return url.Values{
		"serviceName": {c.service}, "groupName": {"DEFAULT_GROUP"}, "namespaceId": {"public"}, "ephemeral": {"true"},
		"ip": {c.self.Addr().String()}, "port": {fmt.Sprint(c.self.Port())},
	}
}

func (c nacosClient) register(ctx context.Context) error {
	return call(ctx, http.MethodPost, c.base+"/v1/ns/instance?"+c.query().Encode(), "", nil, nil)
}

// beat is the light heartbeat; the answer's code, not the status, says that the instance is unknown.
func (c nacosClient) beat(ctx context.Context) error {
	var answer struct{ Code int }
	if err := call(ctx, http.MethodPut, c.base+"/v1/ns/instance/beat?"+c.query().Encode(), "", nil, &answer); err != nil {
		return err
	}
	if answer.Code == 20404 {
		return errUnknownInstance
	}
	return nil
}

func (c nacosClient) deregister(ctx context.Context) error {
	return call(ctx, http.MethodDelete, c.base+"/v1/ns/instance?"+c.query().Encode(), "", nil, nil)
}

func (c nacosClient) lookup(ctx context.Context) ([]string, error) {
	var answer struct {
		Hosts []struct {
			IP               string
			Port             int
			Healthy, Enabled bool
			Weight           float64
		}
	}
	q := url.Values{"serviceName": {c.service}, "groupName": {"DEFAULT_GROUP"}, "namespaceId": {"public"}, "healthyOnly": {"true"}}
	if err := call(ctx, http.MethodGet, c.base+"/v1/ns/instance/list?"+q.Encode(), "", nil, &answer); err != nil {
		return nil, err
	}
	var up []string
	for _, h := range answer.Hosts {
		if h.Enabled && h.Healthy && h.Weight > 0 {
			up = append(up, fmt.Sprintf("%s:%d", h.IP, h.Port))
		}
	}
	return up, nil
}

// call makes one request to a registry and decodes a JSON answer into answer unless that is nil.
func call(ctx context.Context, method, address, contentType string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, address, err)
	case resp.StatusCode == http.StatusNotFound && method == http.MethodPut:
		return errUnknownInstance
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: status %d: %.200s", method, address, resp.StatusCode, data)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, address, err)
	}
	return nil
}
