package manufacturer

// Sources. None is the manufacturer himself: the bytes were taken from who had taken them from him, and compared with
// the SHA-256 or the bytes that another one has. Certificates sign themselves, or are signed by another one here.
const (
	debian    = "Debian package ruby-tpm-key-attestation 0.11.0-1"
	bundle    = "github.com/loicsikidi/tpm-ca-certificates, bundle of 2026-06-10, which names the manufacturers' own addresses"
	tpmTools  = "module github.com/google/go-tpm-tools v0.4.10, server/ca-certs"
	keylime   = "github.com/keylime/keylime, tpm_cert_store"
	elsewhere = "the same bytes, in part, in other public source code"
)

// table is every certificate, sorted by file. Not in it: what only one source had and no TPM 2.0 needs (Atmel, VeriSign,
// Infineon's and Nuvoton's certificates of before 2013 with SHA-1, which no chain may use any more), and issuers whose
// manufacturer is not plain from the certificate.
var table = [...]Entry{
	{"amd-ecc.pem", "id:414D4400", "amd", "c2cb57bf723c174f166c5aa1dc64160981054bee18c70eb1debfc1518afa92d2",
		"2041-01-01", debian, bundle},
	{"amd-rsa.pem", "id:414D4400", "amd", "b73f14dea3bdaa0be87440de3fc718c771f2cbf8b7b2231c6ea228d3b20860ef",
		"2039-10-23", debian, bundle},
	{"google-ek-ak.pem", "id:474F4F47", "google", "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
		"2122-07-08", tpmTools, bundle},
	{"google-host-1.pem", "id:474F4F47", "google", "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",
		"2118-04-06", tpmTools, ""},
	{"infineon-ecc-2.pem", "id:49465800", "infineon", "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190",
		"2054-11-22", bundle, elsewhere},
	{"infineon-ecc.pem", "id:49465800", "infineon", "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3",
		"2043-07-25", debian, bundle + "; " + keylime},
	{"infineon-rsa-2.pem", "id:49465800", "infineon", "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894",
		"2054-11-22", bundle, ""},
	{"infineon-rsa.pem", "id:49465800", "infineon", "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b",
		"2043-07-25", debian, bundle + "; " + keylime},
	{"intel-ek.pem", "id:494E5443", "intel", "2e1b3ba79af56d758be51697621bc4b9e8cee0983db3e749c55eb9b37c6d2ae0",
		"2049-12-31", debian, keylime},
	{"intel-ondie.pem", "id:494E5443", "intel", "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24",
		"2049-12-31", bundle, elsewhere},
	{"microsoft-2014.pem", "id:4D534654", "microsoft", "870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da",
		"2039-12-10", debian, bundle},
	{"nationz.pem", "id:4E545A00", "nationz", "1293d71d6f61c86b98102fd3d4085ff12538f108e925489c0d545059e5f89c36",
		"2047-05-13", debian, bundle},
	{"nuvoton-1110.pem", "id:4E544300", "nuvoton", "2782e51a95e86d9557fe4204316cf805bd6f5898f81f9732e944d742bcdc5f54",
		"2035-05-07", debian, bundle},
	{"nuvoton-1111.pem", "id:4E544300", "nuvoton", "e38c280f7c0e0b49f31efc7531032bb6a86c3fba4eb89beb1d510eaa4510ae4a",
		"2037-08-17", debian, bundle},
	{"nuvoton-1210.pem", "id:4E544300", "nuvoton", "ba70a6ea7b77c7fee8947a07b1e70e0b26d39ce5e6307f63d5e4b9507f19a157",
		"2051-07-27", bundle, ""},
	{"nuvoton-2110.pem", "id:4E544300", "nuvoton", "4aebe77a51ed29959a7f9f5e07a24a558dee8167f3985d724995a541c258dfda",
		"2035-10-15", debian, keylime},
	{"nuvoton-2111.pem", "id:4E544300", "nuvoton", "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04",
		"2037-09-07", debian, bundle},
	{"nuvoton-2112.pem", "id:4E544300", "nuvoton", "66e3a1013d4f697700f731e7d68c69b58351f90ec9580d85862d020ab4abf1af",
		"2041-03-19", bundle, ""},
	{"nuvoton-2210.pem", "id:4E544300", "nuvoton", "fc61abbc18100f460205ebe09d8c3e6995ac2be2234344a7facb62e15f9a7584",
		"2052-03-07", bundle, ""},
	{"nuvoton-2211.pem", "id:4E544300", "nuvoton", "2bbc5db224b8f28a6d2cf336d4da7ab21c8c490e3d60ef497801dc0b6ac00227",
		"2052-03-07", bundle, ""},
	{"nuvoton-ecc521.pem", "id:4E544300", "nuvoton", "083e7bd13e8fe0bb9b0c64db9e0c8356681df65714d2d5c4925eb98ae1369d40",
		"2053-04-27", bundle, ""},
	{"st-ecc-01.pem", "id:53544D20", "stmicro", "c541d7e5b9e3f935621acbd403896225ec641036c9ae3b5f7ac793a606ff9b79",
		"2038-01-19", debian, bundle},
	{"st-ek.pem", "id:53544D20", "stmicro", "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9",
		"2039-12-31", debian, bundle},
	{"st-globalsign-ecc.pem", "id:53544D20", "stmicro", "5a8c7b5eb888cfce9322068e80e82b28b554ffeb7fdc9638dcb3763077401d26",
		"2038-01-19", debian, bundle},
	{"st-globalsign-rsa.pem", "id:53544D20", "stmicro", "f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3",
		"2049-03-18", debian, bundle},
}
