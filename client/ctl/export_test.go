package main

// What tests of the program see of it.
var (
	Main         = main
	DecodeConfig = decodeConfig
	Plain        = plain
	DecodeBundle = decodeBundle
)
