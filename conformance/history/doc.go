// Package history rewrites the history of a real server, with all of its keys and its whole data directory in hand, while
// witnesses of an auditor run as processes of their own.
//
// Its tests change a byte of a leaf, put the server back to a backup, and sign a second history with the stolen log key;
// each must be found by a witness, by `cordonctl verify` or by `cordonctl log check`. They refuse to look into the server:
// everything goes through the programs that operators and auditors run. Nobody trusts this package.
package history
