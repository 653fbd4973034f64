{{/*
prestop for the workload of a chart. In that chart's Chart.yaml

      dependencies:
        - name: prestop-lib
          alias: prestop
          version: …
          repository: oci://…

and in the template of its Pod

      terminationGracePeriodSeconds: {{ include "prestop.gracePeriodSeconds" . }}
      initContainers:
        {{- include "prestop.sidecar" . | nindent 8 }}
      containers:
        - name: …
          lifecycle:
            {{- include "prestop.hook" . | nindent 12 }}

so that the Pod and the sidecar have the one number of .Values.prestop.gracePeriodSeconds.
*/}}

{{/* values: those of .Values.prestop; fails where the dependency has no alias. */}}
{{- define "prestop.values" -}}
{{- if not (hasKey (.Values.prestop | default dict) "gracePeriodSeconds") -}}
{{- fail "the dependency prestop-lib needs `alias: prestop` in Chart.yaml" -}}
{{- end -}}
{{- toYaml .Values.prestop -}}
{{- end }}

{{- define "prestop.gracePeriodSeconds" -}}
{{- int64 (include "prestop.values" . | fromYaml).gracePeriodSeconds -}}
{{- end }}

{{/* The sidecar, an entry of initContainers; with native: false one of containers. */}}
{{- define "prestop.sidecar" -}}
{{- $v := include "prestop.values" . | fromYaml -}}
- {{ include "prestop.container" (set $v "gracePeriod" (include "prestop.gracePeriodSeconds" .)) | nindent 2 | trim }}
{{- end }}

{{/* The lifecycle of the application's container: the hook that waits until the Pod may stop. */}}
{{- define "prestop.hook" -}}
preStop:
  httpGet:
    path: /shutdown
    {{- $v := include "prestop.values" . | fromYaml }}
    port: {{ int64 $v.port }}
    {{- with include "prestop.token" ($v.settings | default dict) }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* The header by which a hook shows the token of the settings, if they have one. */}}
{{- define "prestop.token" -}}
{{- if hasKey . "PRESTOP_TOKEN_FILE" -}}
{{- fail "PRESTOP_TOKEN_FILE: the hooks need the token itself, and would be refused; give PRESTOP_TOKEN" -}}
{{- end -}}
{{- with .PRESTOP_TOKEN -}}
httpHeaders:
  - name: Authorization
    value: {{ printf "Bearer %v" . | quote }}
{{- end -}}
{{- end }}

{{/* A setting's value, quoted: a whole number is written out, and not as 1e+06. */}}
{{- define "prestop.text" -}}
{{- if kindIs "float64" . }}{{ int64 . | toString | quote }}{{ else }}{{ toString . | quote }}{{ end -}}
{{- end }}

{{/* The container of values like those of values.yaml, and gracePeriod, which is text. */}}
{{- define "prestop.container" -}}
name: prestop
image: {{ .image | quote }}
{{- with .imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- if .native }}
restartPolicy: Always
{{- end }}
{{- with .configMap }}
envFrom:
  - configMapRef:
      name: {{ . | quote }}
      optional: true
{{- end }}
env:
  - name: PRESTOP_GRACE_PERIOD
    value: {{ .gracePeriod | quote }}
  - name: POD_IPS
    valueFrom:
      fieldRef:
        fieldPath: status.podIPs
  {{- if ne (int64 .port) 8090 }}
  - name: PRESTOP_LISTEN
    value: {{ printf ":%d" (int64 .port) | quote }}
  {{- end }}
  {{- range $name, $value := .settings }}
  - name: {{ $name }}
    value: {{ include "prestop.text" $value }}
  {{- end }}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ int64 .port }}
  periodSeconds: 1
  failureThreshold: 30
lifecycle:
  preStop:
    httpGet:
      {{- /*
      An ordinary container gets its SIGTERM with the application: /shutdown keeps it until the drain is over. A native
      sidecar stays by itself, and is told that the Pod goes, and not just one of its containers.
      */}}
      path: {{ ternary "/stopping" "/shutdown" .native }}
      port: {{ int64 .port }}
      {{- with include "prestop.token" (.settings | default dict) }}
      {{- . | nindent 6 }}
      {{- end }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- with .resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
