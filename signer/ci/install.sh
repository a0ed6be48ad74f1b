#!/bin/sh
# Puts cordon-sign into CORDON_BIN, unless PATH has one already. It builds from source with the Go toolchain of the
# runner: there are no binaries to download yet.
#   CORDON_BIN      directory to put it into
#   CORDON_REVISION tag or commit of github.com/cordon-ota/cordon; choose one and stay with it
set -eu

if command -v cordon-sign >/dev/null; then
	exit 0
fi
: "${CORDON_BIN:?}" "${CORDON_REVISION:?}"
mkdir -p "$CORDON_BIN"
GOBIN="$CORDON_BIN" go install "github.com/cordon-ota/cordon/signer@$CORDON_REVISION"
mv "$CORDON_BIN/signer" "$CORDON_BIN/cordon-sign" # go names a program after its folder
