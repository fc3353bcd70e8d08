#!/usr/bin/env bash
# Makes the certificates of the TLS tests: valid for a century, but for the expired one. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
sign() { # NAME SUBJECT_ALT_NAME [DAYS-OPTIONS…]
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -out "$1.crt" "${@:3}" \
        -extfile <(printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$2") 2>/dev/null
    cat "$1.crt" "$1.key" >"$1.pem"; rm "$1.csr" "$1.crt" "$1.key"
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=test authority" -keyout ca.key -out ca.pem 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=client" \
    -keyout client-key.pem -out client.pem 2>/dev/null # receivers trust it by itself
sign good DNS:localhost,IP:127.0.0.1 -days 36500
sign wrong-host DNS:elsewhere.example -days 36500
sign expired DNS:localhost,IP:127.0.0.1 -days -1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=localhost" \
    -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout self.key -out self.crt 2>/dev/null
cat self.crt self.key >self-signed.pem; rm self.crt self.key ca.key ca.srl
