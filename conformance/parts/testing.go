package parts

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testTimeout bounds the start of one part in a test.
const testTimeout = 5 * time.Minute

// stockNumber counts the TPMs that the tests of this process took, so that no two of them are the same one.
var stockNumber atomic.Int32

// TestTPM starts a TPM, never used before and different from every other one of this test process, that lives as long
// as the test.
func TestTPM(t testing.TB) *TPM {
	t.Helper()
	return TestTPMWith(t, TPMConfig{})
}

// TestTPMWith is TestTPM with choices. An empty Dir means the test's own folder; with a Dir, CA or Name the TPM is
// manufactured for this test.
func TestTPMWith(t testing.TB, cfg TPMConfig) *TPM {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
		if cfg.CA == "" && cfg.Name == "" && cfg.Stock == 0 {
			cfg.Stock = int(stockNumber.Add(1))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	tpm, err := StartTPM(ctx, cfg)
	if err != nil {
		t.Fatalf("StartTPM: %v", err)
	}
	t.Cleanup(func() {
		if err := tpm.Stop(); err != nil {
			t.Errorf("TPM.Stop: %v", err)
		}
	})
	return tpm
}

// testPostgres is the one server of a test process. It stops, and its folder goes, when the process ends.
var testPostgres = sync.OnceValues(func() (*Postgres, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	return StartPostgres(ctx, "")
})

// TestPostgres returns the DSN of an empty database of its own, on a server that all tests of the process share.
func TestPostgres(t testing.TB) string {
	t.Helper()
	server, err := testPostgres()
	if err != nil {
		t.Fatalf("StartPostgres: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	name, err := server.NewDatabase(ctx)
	if err != nil {
		t.Fatalf("NewDatabase: %v", err)
	}
	return server.DSN(name)
}

// buildTimeout bounds the start of a part that may have to be compiled first.
const buildTimeout = 30 * time.Minute

// testS3 is the one S3 server of a test process. It stops, and its folder goes, when the process ends.
var testS3 = sync.OnceValues(func() (*S3, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	return StartS3(ctx, "")
})

// TestS3 returns an S3 server that all tests of the process share, and the name of an empty bucket of this test's own.
func TestS3(t testing.TB) (server *S3, bucket string) {
	t.Helper()
	return bucketOn(t, "StartS3", testS3)
}

// bucketOn makes an empty bucket on a shared server. what names the start of the server.
func bucketOn(t testing.TB, what string, start func() (*S3, error)) (*S3, string) {
	t.Helper()
	server, err := start()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	bucket, err := server.NewBucket(ctx)
	if err != nil {
		t.Fatalf("NewBucket: %v", err)
	}
	return server, bucket
}

// testMinIO is the one MinIO server of a test process. It stops, and its folder goes, when the process ends.
var testMinIO = sync.OnceValues(func() (*S3, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	return StartMinIO(ctx, "")
})

// TestMinIO is TestS3 with MinIO. Building MinIO takes long, so tests that use it carry the build tag interop and run in
// 'just test-interop'.
func TestMinIO(t testing.TB) (server *S3, bucket string) {
	t.Helper()
	return bucketOn(t, "StartMinIO", testMinIO)
}

// testSigstore is the one Sigstore of a test process. It stops, and its folder goes, when the process ends.
var testSigstore = sync.OnceValues(func() (*Sigstore, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	return StartSigstore(ctx, "")
})

// TestSigstore returns a Sigstore that all tests of the process share; who stops services starts one with
// TestSigstoreWith.
func TestSigstore(t testing.TB) *Sigstore {
	t.Helper()
	s, err := testSigstore()
	if err != nil {
		t.Fatalf("StartSigstore: %v", err)
	}
	return s
}

// TestSigstoreWith starts a Sigstore that lives as long as the test; an empty Dir means the test's own folder.
func TestSigstoreWith(t testing.TB, cfg SigstoreConfig) *Sigstore {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	s, err := StartSigstoreWith(ctx, cfg)
	if err != nil {
		t.Fatalf("StartSigstoreWith: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("Sigstore.Stop: %v", err)
		}
	})
	return s
}

// TestKernels returns two different Debian kernels.
func TestKernels(t testing.TB) []KernelImage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	kernels, err := Kernels(ctx, t.Output())
	if err != nil {
		t.Fatalf("Kernels: %v", err)
	}
	return kernels
}

// TestUKI returns the path of the image that spec describes; an empty Kernel means the first of TestKernels.
func TestUKI(t testing.TB, spec UKISpec) string {
	t.Helper()
	if spec.Kernel.Path == "" {
		spec.Kernel = TestKernels(t)[0]
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	path, err := BuildUKI(ctx, spec)
	if err != nil {
		t.Fatalf("BuildUKI: %v", err)
	}
	return path
}

// TestMachine makes a machine that lives as long as the test; an empty Dir means the test's own folder.
func TestMachine(t testing.TB, cfg MachineConfig) *Machine {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if own := &cfg.TPMConfig; cfg.TPM == nil && own.CA == "" && own.Name == "" && own.Stock == 0 {
		own.Stock = int(stockNumber.Add(1))
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	m, err := NewMachine(ctx, cfg)
	if err != nil {
		t.Fatalf("NewMachine: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Machine.Close: %v", err)
		}
	})
	return m
}
