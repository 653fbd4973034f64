package kube

import (
	"encoding/json"
	"time"
)

// Object is one that is written: JSON of it is what the API server takes.
type Object = map[string]any

// Meta is what is read of an object's metadata.
type Meta struct {
	Name, Namespace, UID string
	Labels               map[string]string
	Finalizers           []string
	CreationTimestamp    time.Time
	DeletionTimestamp    *time.Time
	// DeletionGracePeriodSeconds is 0 once the kubelet has stopped a Pod that is being deleted.
	DeletionGracePeriodSeconds *int
}

// Pod is what is read of one.
type Pod struct {
	Metadata Meta
	Spec     struct{ NodeName string }
	Status   struct {
		Phase, Reason, PodIP, HostIP             string
		PodIPs                                   []struct{ IP string }
		Conditions                               []struct{ Type, Status string }
		InitContainerStatuses, ContainerStatuses []Container
	}
}

// Container is the status of one.
type Container struct {
	Name             string
	Ready            bool
	Started          *bool
	RestartCount     int
	State, LastState ContainerState
}

// ContainerState is what a container does, or how it ended.
type ContainerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *struct {
		ExitCode              int
		Reason, Message       string
		StartedAt, FinishedAt time.Time
	}
}

// Containers returns those that run: the sidecars first.
func (p *Pod) Containers() []Container {
	return append(p.Status.InitContainerStatuses[:len(p.Status.InitContainerStatuses):len(p.Status.InitContainerStatuses)], p.Status.ContainerStatuses...)
}

// Container returns the one of that name; one of zeros if it has no status yet.
func (p *Pod) Container(name string) Container {
	for _, c := range p.Containers() {
		if c.Name == name {
			return c
		}
	}
	return Container{}
}

// Is reports whether the condition is true.
func (p *Pod) Is(condition string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == condition {
			return c.Status == "True"
		}
	}
	return false
}

// Ended reports whether the Pod was deleted or has finished, and none of its containers will run again.
func (p *Pod) Ended() bool {
	if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return true
	}
	if p.Metadata.DeletionTimestamp == nil || p.Metadata.DeletionGracePeriodSeconds == nil || *p.Metadata.DeletionGracePeriodSeconds > 0 {
		return false
	}
	for _, c := range p.Containers() {
		if c.State.Running != nil {
			return false
		}
	}
	return true
}

// Event is what is read of one.
type Event struct {
	Metadata       Meta
	InvolvedObject struct{ Kind, Name string }
	Reason         string
	Message        string
	Type           string
}

// EndpointSlice is what is read of one.
type EndpointSlice struct {
	Metadata  Meta
	Endpoints []Endpoint
}

// Endpoint is one address of a Service.
type Endpoint struct {
	Addresses  []string
	Conditions struct{ Ready, Serving, Terminating bool }
	TargetRef  struct{ Name string }
}

// Decode reads an object; it must be of that type.
func Decode[T any](raw json.RawMessage) (T, error) {
	var v T
	err := json.Unmarshal(raw, &v)
	return v, err
}
