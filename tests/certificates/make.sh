#!/usr/bin/env bash
# Makes the certificates of the TLS tests: valid for a century, but for the expired one. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
certify() { # NAME BY EXTENSIONS [DAYS-OPTIONS…]: makes NAME.crt, signed by BY.pem and BY.key, and NAME.key
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -out "$1.crt" "${@:4}" \
        -extfile <(printf '%s\n' "$3") 2>/dev/null
    rm "$1.csr"
}
sign() { # NAME SUBJECT_ALT_NAME [DAYS-OPTIONS…]
    certify "$1" ca $'basicConstraints=CA:FALSE\nsubjectAltName='"$2" "${@:3}"
    cat "$1.crt" "$1.key" >"$1.pem"; rm "$1.crt" "$1.key"
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=test authority" -keyout ca.key -out ca.pem 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=client" \
    -keyout client-key.pem -out client.pem 2>/dev/null # receivers trust it by itself
sign good DNS:localhost,IP:127.0.0.1 -days 36500
sign wrong-host DNS:elsewhere.example -days 36500
sign expired DNS:localhost,IP:127.0.0.1 -days -1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=localhost" \
    -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout self.key -out self.crt 2>/dev/null
cat self.crt self.key >self-signed.pem; rm self.crt self.key
# As receivers on the internet have it: their authorities sign by intermediates, never by the roots that are trusted.
certify intermediate ca $'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign' -days 36500
mv intermediate.crt intermediate.pem
certify chained intermediate $'basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1' -days 36500
cat chained.crt intermediate.pem chained.key >chained.pem
rm chained.crt chained.key intermediate.pem intermediate.key ./*.srl ca.key
