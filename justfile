# Each recipe runs by hand on a fresh machine with Go and Node. What tests need besides (swtpm, PostgreSQL, ...) they
# install themselves through conformance/parts, or they fail with the line that installs it.

set shell := ["bash", "-euo", "pipefail", "-c"]

staticcheck := "v0.8.2"
tools := env("XDG_CACHE_HOME", env("HOME") / ".cache") / "cordon" / ("staticcheck-" + staticcheck)

# list the recipes
default:
    @{{ quote(just_executable()) }} --list

# the whole story on one machine; ends by itself with exit 0 (--keep stays up for a look)
demo *args:
    @go run ./conformance demo {{ args }}

# format, vet, staticcheck, layout and documents, pure packages; about a minute
check:
    @unformatted=$(git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 gofmt -l); \
        if [ -n "$unformatted" ]; then printf 'not formatted: run gofmt -w on\n%s\n' "$unformatted" >&2; exit 1; fi
    go vet ./...
    go vet -tags interop ./artifacts/s3store ./conformance/...
    go vet -tags device ./conformance/device
    @[ -x "{{ tools }}/staticcheck" ] || GOBIN="{{ tools }}" GOFLAGS= go install honnef.co/go/tools/cmd/staticcheck@{{ staticcheck }}
    "{{ tools }}/staticcheck" ./...
    "{{ tools }}/staticcheck" -tags device ./conformance/device
    "{{ tools }}/staticcheck" -tags interop ./artifacts/s3store ./conformance/...
    go test ./conformance
    go test ./attestation/... ./artifacts ./artifacts/provenance ./artifacts/tufrepo ./server/fleet ./server/rollout

# everything, on real parts
test:
    go test -timeout 20m ./...

# other people's clients, servers and verifiers: cosign, sigstore-js, MinIO, go-tpm-tools, go-attestation (tests with the build tag interop); the first run builds them
test-interop *args:
    go test -tags interop -timeout 40m {{ args }} ./conformance/interop ./conformance/vectors ./conformance/bench ./artifacts/s3store
    go test -tags interop -timeout 40m -run MinIO {{ args }} ./conformance/parts

# all scenarios of the machine under test: real firmware, TPM, boot loader and kernel (tests with the build tag device); more than an hour on two cores
test-device *args:
    go test -tags device -timeout 120m -v {{ args }} ./conformance/device

# what an appraisal costs, against go-tpm-tools and go-attestation in the same run: one JSON object
bench:
    @mkdir -p .build
    @go test -c -tags interop -o .build/bench ./conformance/bench
    @cd conformance/bench && ../../.build/bench -test.run '^TestFigures$' -out ../../.build/bench.json >&2
    @cat .build/bench.json

# every fuzz target in turn, each for some seconds; packages narrows it: just fuzz 600 ./attestation/...
fuzz seconds="10" packages="./...":
    @for package in $(go list {{ packages }}); do \
        for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do \
            echo "$package $target"; \
            go test -run '^$' -fuzz "^$target\$" -fuzztime '{{ seconds }}s' -fuzzminimizetime 10x "$package"; \
        done; \
    done

# static binaries in .build/
build:
    mkdir -p .build
    CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags "-s -w -X github.com/cordon-ota/cordon/server/app.version=$(git describe --always --dirty --tags)" -o .build/cordond ./server
    CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags "-s -w" -o .build/cordon-sign ./signer
    CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags "-s -w" -o .build/cordon-agent ./client/agent
    CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags "-s -w" -o .build/cordonctl ./client/ctl
