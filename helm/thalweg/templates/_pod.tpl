{{/* What the pods of all three kinds have alike. Call each with (dict "root" $ "kind" "broker" "spec" .Values.broker). */}}

{{- define "thalweg.podMetadata" -}}
labels:
  # not the chart's version: another one alone rolls nothing
  {{- include "thalweg.selector" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .kind }}
  {{- with merge (dict) .spec.podLabels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # a change of settings rolls the pods, another number of them does not
  checksum/settings: {{ .settings | toJson | sha256sum }}
  {{- with merge (dict) .spec.podAnnotations .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "thalweg.podSpec" -}}
serviceAccountName: {{ include "thalweg.serviceAccountName" .root }}
automountServiceAccountToken: false
# A Service that is called thalweg would set THALWEG_PORT and the like.
enableServiceLinks: false
{{- include "thalweg.pullSecrets" .root }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ .spec.terminationGracePeriodSeconds }}
{{- with .spec.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .spec.antiAffinity "custom" }}
affinity:
  {{- toYaml .spec.affinity | nindent 2 }}
{{- else if eq .spec.antiAffinity "hard" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "thalweg.selector" .root | nindent 12 }}
            app.kubernetes.io/component: {{ .kind }}
{{- else if eq .spec.antiAffinity "soft" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "thalweg.selector" .root | nindent 14 }}
              app.kubernetes.io/component: {{ .kind }}
{{- end }}
{{- if .spec.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .spec.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .spec.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "thalweg.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .kind }}
{{- end }}
{{- end -}}

{{/* Image, security, probes and the rest of the main container. Takes "port" and "portName" for the probes besides. */}}
{{- define "thalweg.container" -}}
name: {{ .kind }}
image: {{ include "thalweg.image" .root }}
imagePullPolicy: {{ include "thalweg.pullPolicy" .root }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .spec.resources | nindent 2 }}
{{- if gt (int .spec.preStopHealthSeconds) 0 }}
lifecycle:
  preStop:
    # Not before the others have caught up: when all are restarted one after the other, no two lag at the same time.
    # Beyond the time it goes on all the same.
    exec:
      command: [/thalweg, cluster, health, --timeout-ms={{ mul 1000 (int .spec.preStopHealthSeconds) }}]
{{- else if gt (int .spec.preStopSleepSeconds) 0 }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .spec.preStopSleepSeconds }}
{{- end }}
# The standard health service on the service's own port, for the whole server (no service name). A broker or a coordinator
# answers once it is registered; from then on the answer does not depend on controllers or on other brokers, so that a
# cluster without majority is not restarted to pieces.
startupProbe:
  grpc:
    port: {{ .port }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int .spec.startupSeconds) 4) 5 }}
livenessProbe:
  grpc:
    port: {{ .port }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  grpc:
    port: {{ .port }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* Environment that all kinds have. */}}
{{- define "thalweg.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: THALWEG_LOG_FORMAT
  value: {{ .root.Values.log.format }}
- name: THALWEG_LOG_LEVEL
  value: {{ .root.Values.log.level | quote }}
{{- if .root.Values.metrics.enabled }}
- name: THALWEG_METRICS_LISTEN
  value: "{{ include "thalweg.any" .root }}:{{ .root.Values.metrics.port }}"
{{- end }}
{{- with .spec.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "thalweg.metricsPort" -}}
{{- if .Values.metrics.enabled }}
- name: metrics
  containerPort: {{ .Values.metrics.port }}
{{- end }}
{{- end -}}

{{/* The claim of a volume. Call with (dict "root" $ "name" "data" "persistence" .Values.broker.persistence). */}}
{{- define "thalweg.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: {{ .name }}
    {{- with .persistence.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes:
      {{- toYaml .persistence.accessModes | nindent 6 }}
    {{- with default .root.Values.global.storageClass .persistence.storageClass }}
    storageClassName: {{ if eq . "-" }}""{{ else }}{{ . }}{{ end }}
    {{- end }}
    resources:
      requests:
        storage: {{ .persistence.size }}
{{- end -}}

{{/* One step of `helm test`. Call with (dict "root" $ "step" (dict "name" .. "args" list)). */}}
{{- define "thalweg.testStep" -}}
- name: {{ .step.name }}
  image: {{ include "thalweg.image" .root }}
  imagePullPolicy: {{ include "thalweg.pullPolicy" .root }}
  securityContext:
    {{- toYaml .root.Values.containerSecurityContext | nindent 4 }}
  args: {{ .step.args | toJson }}
  env:
    - name: POD_UID
      valueFrom:
        fieldRef:
          fieldPath: metadata.uid
    - name: TOPIC
      value: helm-test-$(POD_UID)
    - name: THALWEG_BOOTSTRAP
      value: {{ include "thalweg.bootstrap" .root }}
  resources:
    requests:
      cpu: 50m
      memory: 32Mi
    limits:
      memory: 256Mi
  volumeMounts:
    - name: records
      mountPath: /records
      readOnly: true
{{- end -}}
