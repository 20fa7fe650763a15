{{- define "slipway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "slipway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "slipway.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "slipway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "slipway.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "slipway.labels" -}}
{{ include "slipway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- /* An image reference: the digest, where there is one, is what is pulled. Takes the image and the root. */ -}}
{{- define "slipway.image" -}}
{{- $tag := default (index . 1).Chart.AppVersion (index . 0).tag -}}
{{- with index . 0 -}}
{{ .repository }}:{{ $tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{- /* Seconds of a time such as 1h30m10s. */ -}}
{{- define "slipway.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $unit := get (dict "h" 3600 "m" 60 "s" 1) (trimAll "0123456789" .) -}}
{{- $seconds = add $seconds (mul $unit (trimSuffix "h" . | trimSuffix "m" | trimSuffix "s" | int64)) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* What Pod Security "restricted" asks for, and a root filesystem that cannot be written to. */ -}}
{{- define "slipway.podSecurity" -}}
automountServiceAccountToken: false
{{- with .Values.weights.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "slipway.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{- /* What `helm test` runs: Helm prints its log; one that failed stays for an hour, to be looked at. */ -}}
{{- define "slipway.testHook" -}}
helm.sh/hook: test
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-succeeded,hook-failed
{{- end -}}

{{- /* The init container that makes /models/<revision>, or ends with one sentence in its termination message. */ -}}
{{- define "slipway.weightsContainer" -}}
- name: weights
  image: {{ include "slipway.image" (list .Values.weights.image .) | quote }}
  imagePullPolicy: {{ .Values.weights.image.pullPolicy }}
  {{- include "slipway.containerSecurity" . | nindent 2 }}
  env:
    - name: HOME
      value: /tmp
    - name: SLIPWAY_REVISION
      value: {{ .Values.weights.revision | quote }}
    - name: SLIPWAY_REMOTE_URL
      value: {{ .Values.weights.remote.url | quote }}
    - name: SLIPWAY_REMOTE_ENDPOINT_URL
      value: {{ .Values.weights.remote.endpointUrl | quote }}
    - name: SLIPWAY_REMOTE_REGION
      value: {{ .Values.weights.remote.region | quote }}
    - name: SLIPWAY_PULL_TIMEOUT
      value: {{ .Values.weights.timeoutSeconds | int64 | quote }}
  {{- with .Values.weights.remote.existingSecret }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  volumeMounts:
    - name: weights
      mountPath: /models
    - name: tmp
      mountPath: /tmp
  resources:
    {{- toYaml (.Values.weights.resources | default dict) | nindent 4 }}
{{- end -}}

{{- define "slipway.weightsVolumes" -}}
- name: weights
  {{- if .Values.weights.volume }}
  {{- toYaml .Values.weights.volume | nindent 2 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.weights.volumeSize }}
  {{- end }}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- /* What the values must be beyond their types, each with a sentence that says what to do. */ -}}
{{- define "slipway.check" -}}
{{- if not .Values.weights.revision -}}
{{- fail "\nweights.revision is not set: write it with `slipway release > release.yaml` and pass `-f release.yaml`" -}}
{{- end -}}
{{- if not .Values.weights.remote.url -}}
{{- fail "\nweights.remote.url is not set: pass the DVC remote that `slipway push` filled, for example s3://bucket/prefix" -}}
{{- end -}}
{{- $need := add .Values.server.preStopSeconds .Values.server.exitTimeoutSeconds 5 | int -}}
{{- if lt (int .Values.server.terminationGracePeriodSeconds) $need -}}
{{- fail (printf "\nserver.terminationGracePeriodSeconds is %d and must be at least %d (preStopSeconds + exitTimeoutSeconds + 5): Kubernetes would kill a pod that still answers" (int .Values.server.terminationGracePeriodSeconds) $need) -}}
{{- end -}}
{{- end -}}
