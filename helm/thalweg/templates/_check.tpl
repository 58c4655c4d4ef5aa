{{/* Values that contradict each other: one sentence for each, with what to change. */}}
{{- define "thalweg.check" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- $founders := include "thalweg.founders" . | int -}}
{{- $controllers := int $v.controller.replicas -}}
{{- $brokers := int $v.broker.replicas -}}

{{- if eq (mod $controllers 2) 0 -}}
{{- $wrong = append $wrong (printf "controller.replicas is %d: controllers vote, and an even number survives no more failures than one less; set it to 1, 3 or 5" $controllers) -}}
{{- end -}}
{{- if eq (mod $founders 2) 0 -}}
{{- $wrong = append $wrong (printf "controller.founders is %d: set it to the number of controllers that the cluster was installed with, 1, 3 or 5" $founders) -}}
{{- end -}}
{{- if gt $founders $controllers -}}
{{- $wrong = append $wrong (printf "controller.founders is %d but only %d controllers run: set controller.replicas to at least %d" $founders $controllers $founders) -}}
{{- end -}}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-controller" (include "thalweg.fullname" .)) -}}
{{- $was := index (.metadata.annotations | default dict) "thalweg.dev/founders" -}}
{{- if and $was (ne (int $was) $founders) -}}
{{- $wrong = append $wrong (printf "this cluster was founded by %s controllers and not by %d: set controller.founders to %s, then take new ones in with `thalweg cluster add-voter`" $was $founders $was) -}}
{{- end -}}
{{- end -}}
{{- $ids := list -}}
{{- range $pod := untilStep 1 (int (add 1 $controllers)) 1 -}}
{{- $ids = append $ids (int (default $pod (index $v.controller.nodeIds (toString $pod)))) -}}
{{- end -}}
{{- if ne (len $ids) (len (uniq $ids)) -}}
{{- $wrong = append $wrong (printf "controller.nodeIds gives two controllers the same number (%s): choose numbers above %d that were never used" (join ", " $ids) $controllers) -}}
{{- end -}}
{{- range $pod, $id := $v.controller.nodeIds -}}
{{- if gt (int $pod) $controllers -}}
{{- $wrong = append $wrong (printf "controller.nodeIds names controller %s, but there are only %d: remove the entry, or set controller.replicas" $pod $controllers) -}}
{{- else if le (int $id) $controllers -}}
{{- $wrong = append $wrong (printf "controller.nodeIds gives controller %s the number %d, which is a pod's own: choose one above %d that was never used" $pod (int $id) $controllers) -}}
{{- end -}}
{{- end -}}

{{- $settings := include "thalweg.controllerSettings" . | fromJson -}}
{{- range $key := list "default-replication-factor" "offsets-topic-replication-factor" -}}
{{- $factor := int (index $settings $key) -}}
{{- if gt $factor $brokers -}}
{{- $wrong = append $wrong (printf "controller.settings.%s is %d but there are %d brokers: lower it, or set broker.replicas to at least %d" $key $factor $brokers $factor) -}}
{{- end -}}
{{- end -}}
{{- range $kind := list "controller" "broker" "coordinator" "operator" -}}
{{- $spec := index $v $kind -}}
{{- if and (eq $spec.antiAffinity "custom") (not $spec.affinity) -}}
{{- $wrong = append $wrong (printf "%s.antiAffinity is custom but %s.affinity is empty: describe the affinity there, or choose soft, hard or none" $kind $kind) -}}
{{- end -}}
{{- if and $spec.affinity (ne $spec.antiAffinity "custom") -}}
{{- $wrong = append $wrong (printf "%s.affinity is set but %s.antiAffinity is %s: set it to custom, or the affinity is not used" $kind $kind $spec.antiAffinity) -}}
{{- end -}}
{{- range $field := list "serviceAccountName" "automountServiceAccountToken" "enableServiceLinks" "imagePullSecrets" "securityContext" "terminationGracePeriodSeconds" "priorityClassName" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "containers" "initContainers" "volumes" -}}
{{- if hasKey $spec.extraPodSpec $field -}}
{{- $wrong = append $wrong (printf "%s.extraPodSpec.%s is set by the chart itself: use the value that it has for that" $kind $field) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int $spec.preStopHealthSeconds) 0) (gt (int $spec.preStopSleepSeconds) 0) -}}
{{- $wrong = append $wrong (printf "%s.preStopHealthSeconds and %s.preStopSleepSeconds are both set: a pod does one of them; set the other to 0" $kind $kind) -}}
{{- end -}}
{{- if ge (int $spec.preStopHealthSeconds) (int $spec.terminationGracePeriodSeconds) -}}
{{- $wrong = append $wrong (printf "%s.preStopHealthSeconds is %d and %s.terminationGracePeriodSeconds %d: the pod would be killed before it is told to stop; raise the latter" $kind (int $spec.preStopHealthSeconds) $kind (int $spec.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- if ge (int $spec.preStopSleepSeconds) (int $spec.terminationGracePeriodSeconds) -}}
{{- $wrong = append $wrong (printf "%s.preStopSleepSeconds is %d and %s.terminationGracePeriodSeconds %d: the pod would be killed before it is told to stop; raise the latter" $kind (int $spec.preStopSleepSeconds) $kind (int $spec.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- end -}}

{{- $rack := $v.broker.rack -}}
{{- if and (eq $rack.mode "fixed") (not $rack.value) -}}
{{- $wrong = append $wrong "broker.rack.mode is fixed: name the rack in broker.rack.value" -}}
{{- end -}}
{{- if and $rack.value (ne $rack.mode "fixed") -}}
{{- $wrong = append $wrong (printf "broker.rack.value is set but broker.rack.mode is %s: set it to fixed" $rack.mode) -}}
{{- end -}}
{{- if and (eq $rack.mode "initContainer") (not $rack.image) -}}
{{- $wrong = append $wrong "broker.rack.mode is initContainer: name an image that has sh and kubectl in broker.rack.image" -}}
{{- end -}}

{{- $external := $v.broker.external -}}
{{- if $external.enabled -}}
{{- if not $external.host -}}
{{- $wrong = append $wrong "broker.external.enabled needs broker.external.host: what clients connect to, such as broker-{id}.example.com" -}}
{{- end -}}
{{- if and (eq $external.type "LoadBalancer") (not (contains "{id}" $external.host)) -}}
{{- $wrong = append $wrong (printf "broker.external.host is %q for all brokers, but each has a load balancer of its own: put {id} into it, as in broker-{id}.example.com" $external.host) -}}
{{- end -}}
{{- $last := int (add $external.firstNodePort $brokers -1) -}}
{{- if and (eq $external.type "NodePort") (gt $last 32767) -}}
{{- $wrong = append $wrong (printf "broker.external.firstNodePort is %d, so that %d brokers need ports up to %d: nodes have them up to 32767; choose a lower one" (int $external.firstNodePort) $brokers $last) -}}
{{- end -}}
{{- end -}}
{{- if and $v.broker.service.nodePort (ne $v.broker.service.type "NodePort") -}}
{{- $wrong = append $wrong (printf "broker.service.nodePort is set but broker.service.type is %s: set it to NodePort" $v.broker.service.type) -}}
{{- end -}}
{{- $ports := list (int $v.broker.ports.client) (int $v.broker.ports.internal) -}}
{{- if $v.metrics.enabled -}}{{- $ports = append $ports (int $v.metrics.port) -}}{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- $wrong = append $wrong (printf "two of a broker's ports are the same (%s): choose different broker.ports.client, broker.ports.internal and metrics.port" (join ", " $ports)) -}}
{{- end -}}

{{- $auto := $v.coordinator.autoscaling -}}
{{- if $auto.enabled -}}
{{- if gt (int $auto.minReplicas) (int $auto.maxReplicas) -}}
{{- $wrong = append $wrong (printf "coordinator.autoscaling.minReplicas is %d and maxReplicas %d: raise the latter" (int $auto.minReplicas) (int $auto.maxReplicas)) -}}
{{- end -}}
{{- if not (dig "requests" "cpu" "" $v.coordinator.resources) -}}
{{- $wrong = append $wrong "coordinator.autoscaling measures CPU by what is requested: set coordinator.resources.requests.cpu" -}}
{{- end -}}
{{- end -}}

{{- if and (or $v.metrics.podMonitor.enabled $v.metrics.prometheusRule.enabled $v.metrics.dashboards.enabled) (not $v.metrics.enabled) -}}
{{- $wrong = append $wrong "metrics.podMonitor, metrics.prometheusRule and metrics.dashboards need metrics to look at: set metrics.enabled" -}}
{{- end -}}
{{- $otlp := $v.telemetry.otlp -}}
{{- if and $otlp.headersSecret.name (not $otlp.endpoint) -}}
{{- $wrong = append $wrong "telemetry.otlp.headersSecret is set but nothing is exported: name the collector in telemetry.otlp.endpoint" -}}
{{- end -}}
{{- if and $otlp.endpoint (not $v.telemetry.traces.enabled) (not $v.telemetry.metrics.enabled) (not $v.telemetry.logs.enabled) -}}
{{- $wrong = append $wrong "telemetry.otlp.endpoint is set but neither traces, metrics nor logs are exported: enable one of them, or empty the endpoint" -}}
{{- end -}}
{{- if and $v.networkPolicy.egress.restricted (not $v.networkPolicy.enabled) -}}
{{- $wrong = append $wrong "networkPolicy.egress.restricted needs a policy: set networkPolicy.enabled" -}}
{{- end -}}
{{- if and $v.networkPolicy.egress.restricted $v.operator.enabled (not $v.networkPolicy.egress.extra) -}}
{{- $wrong = append $wrong "operator.enabled and networkPolicy.egress.restricted: let the operator reach the Kubernetes API with a rule in networkPolicy.egress.extra" -}}
{{- end -}}
{{- if and $v.networkPolicy.egress.restricted (eq $v.broker.rack.mode "initContainer") (not $v.networkPolicy.egress.extra) -}}
{{- $wrong = append $wrong "broker.rack.mode is initContainer and networkPolicy.egress.restricted: let brokers reach the Kubernetes API with a rule in networkPolicy.egress.extra" -}}
{{- end -}}
{{- if and $v.image.digest $v.image.tag -}}
{{- $wrong = append $wrong "image.digest and image.tag are both set: keep one" -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\n  %s\n" (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}
