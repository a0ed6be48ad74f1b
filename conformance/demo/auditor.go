package demo

import (
	"context"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"os"
)

// audit pulls a report and checks it without the server.
func (w *world) audit(ctx context.Context) (string, error) {
	dave, err := w.as("dave")
	if err != nil {
		return "", err
	}
	b, err := dave.Report(ctx, api.ReportQuery{From: time.Now().Add(-24 * time.Hour), To: time.Now().Add(time.Minute)})
	if err != nil {
		return "", err
	}
	return "report pulled", os.WriteFile(w.path("report.json"), b, 0o644)
}
