{{/* The release's name, with the chart's where it is not part of it. */}}
{{- define "antiphon.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* What a part is selected by: (list . "operator"). */}}
{{- define "antiphon.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: antiphon-{{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{- define "antiphon.labels" -}}
{{- $root := index . 0 -}}
{{ include "antiphon.selector" . }}
app.kubernetes.io/part-of: antiphon
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* A whole image name of one of ours: (list . "antiphon-operator"). One with a tag or digest is taken as it is. */}}
{{- define "antiphon.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if regexMatch "[:@]" (regexFind "[^/]*$" $name) -}}
{{ $name }}
{{- else -}}
{{ with $root.Values.image.registry }}{{ . | trimSuffix "/" }}/{{ end }}{{ $name }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The namespaces that the operator looks after, as {"names": [...]}. */}}
{{- define "antiphon.namespaces" -}}
{{ dict "names" (.Values.operator.namespaces | default (list .Release.Namespace)) | toJson }}
{{- end }}

{{/* Where the chart's Secrets are needed: the release's namespace and those that the operator looks after. */}}
{{- define "antiphon.secretNamespaces" -}}
{{ dict "names" (prepend .Values.operator.namespaces .Release.Namespace | uniq) | toJson }}
{{- end }}

{{/* One key of a Secret that is there already, decoded; empty where there is none: (list . NAME KEY). */}}
{{- define "antiphon.kept" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- if and $found $found.data }}{{ index $found.data (index . 2) | default "" | b64dec }}{{ end -}}
{{- end }}

{{/* What restricted Pod Security asks of a pod ... */}}
{{- define "antiphon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* ... and of a container. */}}
{{- define "antiphon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods of a part go: (list . .Values.operator "operator"). Spread over nodes, where nothing else is said. */}}
{{- define "antiphon.scheduling" -}}
{{- $part := index . 1 -}}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "antiphon.selector" (list (index . 0) (index . 2)) | nindent 8 }}
{{- end }}

{{/* The port in a URL: (list URL). */}}
{{- define "antiphon.port" -}}
{{- $parts := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $parts.scheme "https")) -}}
{{- end }}

{{/* The configuration file of an orchestrator. */}}
{{- define "antiphon.configuration" -}}
{{- $responder := dict "kind" "echo" -}}
{{- if .Values.llm.url -}}
{{- $responder = dict "kind" "chat" "url" .Values.llm.url "model" .Values.llm.model -}}
{{- if or .Values.llm.key .Values.llm.existingSecret -}}
{{- $_ := set $responder "key" (dict "file" "/etc/antiphon/llm/key") -}}
{{- end -}}
{{- end -}}
{{- $assistants := dict -}}
{{- range $name, $assistant := .Values.assistants | default (dict "assistant" dict) -}}
{{- $assistant = deepCopy ($assistant | default dict) -}}
{{- if not $assistant.responder -}}
{{- $_ := set $assistant "responder" $responder -}}
{{- end -}}
{{- $_ := set $assistants $name $assistant -}}
{{- end -}}
{{- $server := dict
    "host" "0.0.0.0"
    "port" 8080
    "metrics_port" 9102
    "keys" (list (dict "file" "/etc/antiphon/api-keys/keys"))
    "drain_grace_s" .Values.orchestrator.drainSeconds -}}
{{- dict
    "assistants" $assistants
    "default" .Values.default
    "aliases" .Values.aliases
    "server" (merge $server .Values.orchestrator.server)
    "registry" (dict "namespace" .Release.Namespace)
    "workers" (dict "token_file" "/etc/antiphon/workers/token")
    | toYaml -}}
{{- end }}
