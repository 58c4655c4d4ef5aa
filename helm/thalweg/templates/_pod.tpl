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
serviceAccountName: {{ .serviceAccountName | default (include "thalweg.serviceAccountName" .root) }}
automountServiceAccountToken: {{ hasKey . "serviceAccountName" }}
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
{{- with .spec.extraPodSpec }}
{{ toYaml . }}
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
# The standard health service. A broker or a coordinator is ready once it is registered; from then on the answer does not
# depend on controllers or on other brokers, so that a cluster without majority is not restarted to pieces.
startupProbe:
  {{- include "thalweg.probe" (dict "in" . "service" (printf "thalweg.%s" .kind)) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int .spec.startupSeconds) 4) 5 }}
livenessProbe:
  {{- include "thalweg.probe" (dict "in" . "service" "thalweg.live") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  {{- include "thalweg.probe" (dict "in" . "service" (printf "thalweg.%s" .kind)) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* Whom a probe asks: by name on the port for operations, or the whole server on its own port where there is none. */}}
{{- define "thalweg.probe" -}}
grpc:
  {{- if .in.root.Values.metrics.enabled }}
  port: {{ .in.root.Values.metrics.port }}
  service: {{ .service }}
  {{- else }}
  port: {{ .in.port }}
  {{- end }}
{{- end -}}

{{/* The standard variables of OpenTelemetry. */}}
{{- define "thalweg.otel" -}}
{{- $telemetry := .root.Values.telemetry -}}
{{- with $telemetry.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- with $telemetry.otlp.headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $telemetry.otlp.headersSecret.key }}
{{- end }}
{{- range $signal := list "traces" "metrics" "logs" }}
{{- if not (index $telemetry $signal).enabled }}
- name: OTEL_{{ upper $signal }}_EXPORTER
  value: none
{{- end }}
{{- end }}
{{- if $telemetry.traces.enabled }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $telemetry.traces.sampleRatio | quote }}
{{- end }}
{{- if $telemetry.metrics.enabled }}
- name: OTEL_METRIC_EXPORT_INTERVAL
  value: {{ mul 1000 (int $telemetry.metrics.intervalSeconds) | quote }}
{{- end }}
- name: POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- $attributes := dict "k8s.namespace.name" $.root.Release.Namespace "k8s.pod.name" "$(POD_NAME)" "k8s.pod.uid" "$(POD_UID)" "k8s.node.name" "$(NODE_NAME)" "service.namespace" (include "thalweg.fullname" $.root) }}
{{- $pairs := list }}
{{- range $name, $value := merge (dict) $telemetry.resourceAttributes $attributes }}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $pairs | quote }}
{{- end }}
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
{{- include "thalweg.otel" . }}
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
