#!/bin/sh
# A team's MLflow: runs and models in PostgreSQL, artifacts in a bucket that the server alone reaches, an account for
# everyone. Whoever has one may read; to write takes a permission (mlflow_account.py). Nobody but the admin makes experiments
# or models: MLflow gives whoever makes one all rights over it. No password is in an address:
#
#   DATABASE                       postgresql+psycopg://mlflow@HOST:5432/mlflow, its password in PGPASSWORD
#   ARTIFACT_STORE                 s3://BUCKET/artifacts, and what AWS_… it takes; whoever reads is given all that is in it
#   ALLOWED_HOSTS                  the names, with ports, by which clients call the server, with commas between them
#   MLFLOW_AUTH_ADMIN_PASSWORD     of the account `admin`; it counts at the first start only
#   MLFLOW_FLASK_SERVER_SECRET_KEY the same at every start: it signs what browsers send back
#   HOST, PORT                     where it listens; this machine's port 5000 if they are not set
#   WORKERS                        its processes; 2 if it is not set
set -eu
: "${DATABASE:?is not set}" "${ARTIFACT_STORE:?is not set}" "${ALLOWED_HOSTS:?is not set}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?is not set: no server without a password}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?is not set}"
case $DATABASE in
  *://*:*@* | *[?\&]password=*) echo "DATABASE holds a password, which would be logged: put it into PGPASSWORD" >&2; exit 2 ;;
esac
case $ALLOWED_HOSTS in
  *\**) echo "ALLOWED_HOSTS: name the hosts; any page that a browser opens could speak for them otherwise" >&2; exit 2 ;;
esac

# Without workspaces, every account may make what it likes. The one that is there, `default`, everyone reads, and to make
# something in it takes a permission that nobody is given. What was asked for before it was made is denied for the TTL.
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
# Its jobs (judges of language models and the like) would take a process for each kind, and hand pickles on.
export MLFLOW_AUTH_CONFIG_PATH MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
grant_default_workspace_access = true
workspace_cache_ttl_seconds = 60
database_uri = $DATABASE
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END

exec mlflow server --host="${HOST:-127.0.0.1}" --port="${PORT:-5000}" --workers="${WORKERS:-2}" --app-name=basic-auth \
  --backend-store-uri="$DATABASE" --serve-artifacts --artifacts-destination="$ARTIFACT_STORE" \
  --allowed-hosts="$ALLOWED_HOSTS" --enable-workspaces
