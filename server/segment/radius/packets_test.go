package radius_test

// realPackets are an Accounting-Request of radclient 3.2.1, and the CoA-ACK and CoA-NAK of FreeRADIUS 3.2.1 to the request
// of FuzzPackets, as they were on the wire.
var realPackets = []string{
	"041d0053b4ee38827342ff82d0c0cad924bd18f52806000000012c1330323a30303a30303a30303a30303a30611f1330322d30302d30302d30302d30302d30412007706172747337066b035af40b066f70656e",
	"2c090014eba6bccdffad923eafe26879dd79ee5e",
	"2d09001aaaeec42f74c6644b86d62defec62121d6506000001f7",
}
