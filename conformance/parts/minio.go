package parts

import (
	"context"
	"path/filepath"
)

// minIO is the server that most users run beside AWS. AGPL: it is a process of its own, never imported, and it is built
// by go install on the machine that tests.
func minIO() goTool {
	return goTool{name: "minio", pkg: "github.com/minio/minio", version: "v0.0.0-20260212201848-7aac2a2c5b7c"}
}

// MinIOVersion is the version of MinIO.
func MinIOVersion() string { return minIO().version }

// VersityVersion is the version of versitygw.
func VersityVersion() string { return versitygw().version }

// StartMinIO is StartS3 with MinIO. Its buckets know versioning and object lock.
func StartMinIO(ctx context.Context, dir string) (*S3, error) {
	return startS3(ctx, dir, s3Server{
		tool: minIO(), argv: minIOArgv, accessVariable: "MINIO_ROOT_USER", secretVariable: "MINIO_ROOT_PASSWORD",
		// CI_CD lets it use one folder of a disk that holds other things.
		env: []string{"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1", "MINIO_REGION=" + s3Region},
	})
}

func minIOArgv(s *S3) []string {
	return []string{"server", "--address", s.address(), "--certs-dir", filepath.Join(s.dir, "certs"), "--quiet", filepath.Join(s.dir, "data")}
}
