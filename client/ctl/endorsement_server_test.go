package main_test

import (
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// denial is one that somebody wrote who wants to move the cursor.
func denial() api.Denial {
	return api.Denial{ID: "d-1", Manufacturer: "id:49465800", FirmwareFrom: "0001", FirmwareTo: "0009", Why: "a hole\x1b[2J", By: "ann", At: verifytest.Noon}
}

func (s *server) denials(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		lifted, key, serial := denial(), denial(), denial()
		at := verifytest.Noon.Add(time.Hour)
		lifted.ID, lifted.Manufacturer, lifted.Issuer, lifted.LiftedAt = "d-0", "", "aabb", &at
		key.ID, key.Manufacturer, key.Key = "d-2", "", "00ff"
		serial.ID, serial.Manufacturer, serial.Serial, serial.Issuer = "d-3", "", "65", "aabb"
		switch r.URL.Query().Get("after") {
		case "":
			answer(w, api.Page[api.Denial]{Items: []api.Denial{denial(), lifted}, Next: lifted.ID})
		case lifted.ID:
			answer(w, api.Page[api.Denial]{Items: []api.Denial{key, serial}})
		}
		return
	}
	var req api.DenialRequest
	read(r, &req)
	n := denial()
	n.Manufacturer, n.FirmwareFrom, n.FirmwareTo, n.Why = req.Manufacturer, req.FirmwareFrom, req.FirmwareTo, req.Why
	answer(w, n)
}

func (s *server) liftDenial(w http.ResponseWriter, r *http.Request) {
	n := denial()
	n.ID, n.Approvals = r.PathValue("id"), []api.Approval{{Person: "bob", At: verifytest.Noon}}
	answer(w, n)
}
