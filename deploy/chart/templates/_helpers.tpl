{{- define "prestop.labels" -}}
app.kubernetes.io/name: prestop
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}

{{/* The name of a cluster-wide object: that of the release, which has prestop in it. */}}
{{- define "prestop.fullname" -}}
{{- ternary .Release.Name (printf "prestop-%s" .Release.Name) (contains "prestop" .Release.Name) -}}
{{- end }}

{{/*
What adds the sidecars: v1, v1beta1 or kyverno. Without a cluster (helm template), what the Kubernetes version is likely to have.
*/}}
{{- define "prestop.injector" -}}
{{- $has := .Capabilities.APIVersions -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- $cluster := $has.Has "apps/v1/Deployment" -}}
{{- if ne .Values.injection.by "auto" -}}
{{- .Values.injection.by -}}
{{- else if or ($has.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") (semverCompare ">=1.36.0-0" $version) -}}
v1
{{- else if $has.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
v1beta1
{{- else if $has.Has "kyverno.io/v1/ClusterPolicy" -}}
kyverno
{{- else if $cluster -}}
{{- fail (printf "\n\nKubernetes %s has nothing that could add prestop to Pods. Do one of these:\n- turn on MutatingAdmissionPolicy (1.34 and 1.35: the API server's --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true)\n- install Kyverno\n- set injection.enabled=false, and add prestop to your own charts by the library chart prestop-lib\n" $version) -}}
{{- else -}}
{{- ternary "v1beta1" "kyverno" (semverCompare ">=1.34.0-0" $version) -}}
{{- end -}}
{{- end }}

{{/* The sidecar that is injected, from root, native and gracePeriod. */}}
{{- define "prestop.injected" -}}
{{- $v := .root.Values -}}
{{- include "prestop.container" (dict "image" $v.image "imagePullPolicy" $v.imagePullPolicy "gracePeriod" .gracePeriod "configMap" $v.injection.configMap "settings" dict "port" 8090 "native" .native "resources" $v.injection.resources) -}}
{{- end }}

{{/*
A value as an expression of CEL: v, indented by in. Each part is dyn, since Kubernetes takes no map of several types. Text
that begins with "cel:" is an expression.
*/}}
{{- define "prestop.cel" -}}
{{- $in := printf "%s  " .in -}}
{{- if kindIs "map" .v -}}
{
{{- range $i, $k := keys .v | sortAlpha }}{{ if $i }},{{ end }}
{{ $in }}{{ $k | quote }}: dyn({{ include "prestop.cel" (dict "v" (index $.v $k) "in" $in) }})
{{- end }}
{{ .in }}}
{{- else if kindIs "slice" .v -}}
[{{ range $i, $e := .v }}{{ if $i }}, {{ end }}dyn({{ include "prestop.cel" (dict "v" $e "in" $.in) }}){{ end }}]
{{- else if kindIs "string" .v -}}
{{- if hasPrefix "cel:" .v }}{{ trimPrefix "cel:" .v }}{{ else }}{{ .v | toJson }}{{ end -}}
{{- else if kindIs "bool" .v -}}
{{- .v -}}
{{- else -}}
{{- int64 .v -}}
{{- end -}}
{{- end }}
