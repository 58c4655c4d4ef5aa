{{/* Names, labels, images. */}}

{{- define "thalweg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything, without its kind. Short enough for "-coordinator" and a pod's number behind it. */}}
{{- define "thalweg.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "thalweg.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "thalweg.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "thalweg.selector" -}}
app.kubernetes.io/name: {{ include "thalweg.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "thalweg.labels" -}}
{{ include "thalweg.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object: common ones and its own. Call with (dict "root" $ "own" map). */}}
{{- define "thalweg.annotations" -}}
{{- with merge (dict) (.own | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "thalweg.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "thalweg.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "thalweg.image" -}}
{{- $registry := default .Values.image.registry .Values.global.image.registry -}}
{{- $tag := default (default .Chart.AppVersion .Values.image.tag) .Values.global.image.tag -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- define "thalweg.pullPolicy" -}}
{{- default .Values.image.pullPolicy .Values.global.image.pullPolicy -}}
{{- end -}}

{{- define "thalweg.pullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* All interfaces. */}}
{{- define "thalweg.any" -}}
{{- if .Values.ipv6 }}[::]{{ else }}0.0.0.0{{ end -}}
{{- end -}}

{{/* The domain of a kind's pods. Call with (dict "root" $ "kind" "broker"). */}}
{{- define "thalweg.podDomain" -}}
{{- printf "%s-%s.%s.svc.%s" (include "thalweg.fullname" .root) .kind .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{/* A controller's endpoint. Call with (dict "root" $ "pod" 1). */}}
{{- define "thalweg.controllerEndpoint" -}}
{{- printf "%s-controller-%d.%s:%d" (include "thalweg.fullname" .root) (int .pod) (include "thalweg.podDomain" (dict "root" .root "kind" "controller")) (int .root.Values.controller.port) -}}
{{- end -}}

{{- define "thalweg.controllers" -}}
{{- $endpoints := list -}}
{{- range $pod := untilStep 1 (int (add 1 .Values.controller.replicas)) 1 -}}
{{- $endpoints = append $endpoints (include "thalweg.controllerEndpoint" (dict "root" $ "pod" $pod)) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- end -}}

{{- define "thalweg.founders" -}}
{{- .Values.controller.founders | default .Values.controller.replicas | int -}}
{{- end -}}

{{/* The founding list: founders keep the numbers of their pods in it, whatever became of them. */}}
{{- define "thalweg.voters" -}}
{{- $voters := list -}}
{{- range $pod := untilStep 1 (int (add 1 (include "thalweg.founders" . | int))) 1 -}}
{{- $voters = append $voters (printf "%d@%s" $pod (include "thalweg.controllerEndpoint" (dict "root" $ "pod" $pod))) -}}
{{- end -}}
{{- join "," $voters -}}
{{- end -}}

{{- define "thalweg.bootstrap" -}}
{{- printf "%s.%s.svc.%s:%d" (include "thalweg.fullname" .) .Release.Namespace .Values.clusterDomain (int .Values.broker.ports.client) -}}
{{- end -}}

{{/* Settings as the lines of a settings file. */}}
{{- define "thalweg.toml" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end -}}

{{/* The controllers' settings: replicas of new topics follow the number of brokers. */}}
{{- define "thalweg.controllerSettings" -}}
{{- $replicas := min 3 (int .Values.broker.replicas) -}}
{{- $defaults := dict "default-replication-factor" $replicas "offsets-topic-replication-factor" $replicas -}}
{{- merge (dict) .Values.controller.settings $defaults | toJson -}}
{{- end -}}

{{/* Whether a Cluster resource is made for this release's brokers. */}}
{{- define "thalweg.hasCluster" -}}
{{- $create := .Values.operator.cluster.create -}}
{{- if and .Values.operator.enabled (or (eq $create "always") (and (eq $create "auto") (.Capabilities.APIVersions.Has "thalweg.io/v1alpha1/Cluster"))) -}}
true
{{- end -}}
{{- end -}}

{{/* The StatefulSet's replicas. Where there is an operator they are its affair once the StatefulSet is there. */}}
{{- define "thalweg.brokerReplicas" -}}
{{- $replicas := int .Values.broker.replicas -}}
{{- if and .Values.operator.enabled (ne .Values.operator.cluster.create "never") -}}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-broker" (include "thalweg.fullname" .)) -}}
{{- $replicas = int .spec.replicas -}}
{{- end -}}
{{- end -}}
{{- $replicas -}}
{{- end -}}

{{/* Brokers that there are or shall be: those that are drained need their settings and addresses until they are gone. */}}
{{- define "thalweg.brokersEver" -}}
{{- max (int .Values.broker.replicas) (include "thalweg.brokerReplicas" . | int) -}}
{{- end -}}
