package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WithIntruder makes, in dir, what OnESP returns for the same owner with one more key in the signature database: that of
// somebody who came to use the owner's key exchange key.
func (k *SecureBootKeys) WithIntruder(ctx context.Context, dir string) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot add a Secure Boot key: %w", err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := newSigningKey("intruder", in("intruder.key"), in("intruder.crt")); err != nil {
		return nil, err
	}
	if _, err := run(ctx, "cert-to-efi-sig-list", "-g", ownerGUID, in("intruder.crt"), in("intruder.esl")); err != nil {
		return nil, err
	}
	own, err := os.ReadFile(k.file("db", "esl"))
	more, moreErr := os.ReadFile(in("intruder.esl"))
	if err := errors.Join(err, moreErr); err != nil {
		return nil, fmt.Errorf("cannot add a Secure Boot key: %w", err)
	}
	if err := writeFile(in("db.esl"), append(own, more...), 0o600); err != nil {
		return nil, fmt.Errorf("cannot add a Secure Boot key: %w", err)
	}
	if _, err := run(ctx, "sign-efi-sig-list", "-g", ownerGUID, "-k", k.key("KEK"), "-c", k.certificate("KEK"), "db", in("db.esl"), in("db.auth")); err != nil {
		return nil, err
	}
	files := k.OnESP()
	files["loader/keys/auto/db.auth"] = in("db.auth")
	return files, nil
}
