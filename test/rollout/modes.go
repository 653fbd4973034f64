package main

import (
	"fmt"
	"slices"
	"strings"
)

// mode is a way to stop a Pod.
type mode struct {
	Name string
	// Title and Chinese name it, What and WhatChinese are a line about it; for people.
	Title, Chinese, What, WhatChinese string
	// Shell is what the app's preStop hook runs in bash; "" for none.
	Shell string
	// Prestop adds the sidecar and has the hook call it, with these flags beside the usual ones.
	Prestop bool
	Flags   []string
	// Registries leaves out the callers that are no registry's, and has the kubelet look at the app every 15 s only: who
	// keeps a connection, and a kubelet that looks, are clients that are heard.
	Registries bool
}

const outOfService = `curl -sS --fail -X PUT "${EUREKA}apps/ORDERS/$POD_NAME/status?value=OUT_OF_SERVICE"; `

// disabled is what the console's "offline" does; on 2.3.2 it also sets the weight to 1.
const disabled = `curl -sS --fail -X PUT "$NACOS/v1/ns/instance?serviceName=orders&ip=$POD_IP&port=8080&enabled=false"; `

var modes = []mode{
	{Name: "none", Title: "no hook", What: "SIGTERM at once",
		Chinese: "没有 preStop", WhatChinese: "立即 SIGTERM"},
	{Name: "sleep35", Title: "sleep 35", What: "the app serves for 35 s more; nobody tells the callers",
		Chinese: "sleep 35", WhatChinese: "再服务 35 秒，没有人通知调用方", Shell: "sleep 35"},
	{Name: "out35", Title: "OUT_OF_SERVICE + sleep 35", What: "Eureka is told, then 35 s",
		Chinese: "OUT_OF_SERVICE + sleep 35", WhatChinese: "先通知 Eureka，再等 35 秒", Shell: outOfService + "sleep 35"},
	{Name: "out100", Title: "OUT_OF_SERVICE + sleep 100", What: "Eureka is told, then 100 s",
		Chinese: "OUT_OF_SERVICE + sleep 100", WhatChinese: "先通知 Eureka，再等 100 秒", Shell: outOfService + "sleep 100"},
	{Name: "both100", Title: "both registries + sleep 100", What: "a script tells Eureka and Nacos, then 100 s",
		Chinese: "两个注册中心 + sleep 100", WhatChinese: "脚本先通知 Eureka 和 Nacos，再等 100 秒", Shell: outOfService + disabled + "sleep 100"},
	{Name: "prestop", Title: "prestop", What: "deregisters everywhere; waits for the callers' caches and the requests in flight",
		Chinese: "prestop", WhatChinese: "从所有注册中心摘除，等调用方缓存失效、没有在途请求", Prestop: true},
	{Name: "quiet", Title: "prestop --quiet-period 10s", What: "ends early when no client sends anything; callers by registry alone",
		Chinese: "prestop --quiet-period 10s", WhatChinese: "10 秒没有客户端发来数据就提前结束；只有经注册中心的调用方", Prestop: true, Flags: []string{"--quiet-period=10s"}, Registries: true},
}

// pick finds modes by their names, with commas.
func pick(names string) ([]mode, error) {
	var all []mode
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(modes, func(m mode) bool { return m.Name == name })
		if i < 0 {
			var known []string
			for _, m := range modes {
				known = append(known, m.Name)
			}
			return nil, fmt.Errorf("find the mode %q: there are %s", name, strings.Join(known, ", "))
		}
		all = append(all, modes[i])
	}
	return all, nil
}
