{{/*
prestop for a chart's own workload: put this file into its templates/, and into the Pod's template

      terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
      initContainers:
        {{- include "prestop.sidecar" (dict "image" .Values.prestop.image "gracePeriod" .Values.terminationGracePeriodSeconds) | nindent 8 }}
      containers:
        - name: …
          lifecycle:
            preStop:
              {{- include "prestop.hook" . | nindent 14 }}

so that both have the one number. A ConfigMap named prestop, if there is one, configures the sidecar: PRESTOP_EUREKA_URL,
PRESTOP_NACOS_URL, …
*/}}
{{- define "prestop.sidecar" -}}
- name: prestop
  image: {{ .image }}
  restartPolicy: Always
  envFrom:
    - configMapRef:
        name: prestop
        optional: true
  env:
    - name: PRESTOP_GRACE_PERIOD
      value: "{{ .gracePeriod }}"
    - name: POD_IPS
      valueFrom:
        fieldRef:
          fieldPath: status.podIPs
  startupProbe:
    httpGet:
      path: /healthz
      port: 8090
    periodSeconds: 1
    failureThreshold: 30
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
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
    limits:
      memory: 32Mi
{{- end }}

{{- define "prestop.hook" -}}
httpGet:
  path: /shutdown
  port: 8090
{{- end }}
