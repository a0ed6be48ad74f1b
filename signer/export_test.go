package main

// Main is what testscript runs as cordon-sign.
var Main = main
