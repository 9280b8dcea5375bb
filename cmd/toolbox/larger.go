//go:build !toolbox_core

package main

// larger are the applets that need a shell's parser, the network, compression or regular expressions.
func larger() []applet {
	return []applet{
		{"[", shellBuiltin},
		{"cp", cp},
		{"grep", grep},
		{"gunzip", gunzip},
		{"gzip", gzipFiles},
		{"httpd", httpd},
		{"ip", ip},
		{"md5sum", md5sum},
		{"mkdir", mkdir},
		{"mktemp", mktemp},
		{"mv", mv},
		{"nc", nc},
		{"nslookup", nslookup},
		{"printf", shellBuiltin},
		{"rm", rm},
		{"sh", sh},
		{"sha256sum", sha256sum},
		{"tar", tarFiles},
		{"test", shellBuiltin},
		{"touch", touch},
		{"wget", wget},
		{"xargs", xargs},
	}
}
