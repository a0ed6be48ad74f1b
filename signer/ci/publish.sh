#!/bin/sh
# Publishes one release from a pipeline, and can be run again as often as the pipeline likes: the same release twice
# changes nothing and ends with 0. It needs cordon-sign in PATH; signer/ci/install.sh builds one.
#
# The pipeline gives, as protected variables and files:
#   CORDON_SERVER          https URL of the admin listener
#   CORDON_CA_SHA256       SHA-256 of the server's CA certificate, as cordond prints it
#   CORDON_TOKEN_FILE      file with the token of an account that has the role ci and no other
# one of these two, which says who signs:
#   CORDON_KEY_FILE        publisher.pem of 'cordon-sign keys new --type publisher'
#   CORDON_SIGNING_CONFIG  signing_config.json of the Sigstore that certifies this pipeline (keyless). The identity token
#                          comes from GitHub Actions, from the variable SIGSTORE_ID_TOKEN, or from the file that
#                          CORDON_IDENTITY_TOKEN_FILE names; CORDON_TRUSTED_ROOT, a trusted_root.json, is optional
# and, per release:
#   CORDON_PRODUCT         product
#   CORDON_VERSION         version, for example the tag
#   CORDON_COMPONENTS      one or more NAME=FILE,hw=A+B,installer=KIND, with spaces between
#   CORDON_OUT             directory that the pipeline keeps: the bundle and the result go there
set -eu

: "${CORDON_SERVER:?}" "${CORDON_CA_SHA256:?}" "${CORDON_TOKEN_FILE:?}"
: "${CORDON_PRODUCT:?}" "${CORDON_VERSION:?}" "${CORDON_COMPONENTS:?}" "${CORDON_OUT:?}"

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
trap 'exit 130' INT TERM

set --
for component in $CORDON_COMPONENTS; do
	set -- "$@" --component "$component"
done
if [ -n "${CORDON_KEY_FILE:-}" ]; then
	# Many pipelines hand secrets over as files that everybody on the runner can read; cordon-sign refuses those.
	(umask 077 && cat "$CORDON_KEY_FILE" >"$private/publisher.pem")
	set -- "$@" --key "$private/publisher.pem"
else
	: "${CORDON_SIGNING_CONFIG:?or CORDON_KEY_FILE must say who signs}"
	set -- "$@" --signing-config "$CORDON_SIGNING_CONFIG"
	[ -z "${CORDON_TRUSTED_ROOT:-}" ] || set -- "$@" --trusted-root "$CORDON_TRUSTED_ROOT"
	[ -z "${CORDON_IDENTITY_TOKEN_FILE:-}" ] || set -- "$@" --identity-token-file "$CORDON_IDENTITY_TOKEN_FILE"
fi

mkdir -p "$CORDON_OUT"
cordon-sign publish \
	--server "$CORDON_SERVER" --ca-sha256 "$CORDON_CA_SHA256" --token-file "$CORDON_TOKEN_FILE" \
	--product "$CORDON_PRODUCT" --version "$CORDON_VERSION" "$@" \
	--bundle-out "$CORDON_OUT/$CORDON_PRODUCT-$CORDON_VERSION.sigstore.json" \
	--json >"$CORDON_OUT/$CORDON_PRODUCT-$CORDON_VERSION.json"
