// Package config fills configuration structs from a YAML file, environment variables and command-line settings, and
// remembers where each value came from.
//
// Model. A program's configuration is a struct of structs; each package owns the struct that configures it, with
// its defaults and a method Validate() error. The key of a field is its yaml tag, or its name in snake_case; keys of
// nested structs are joined by dots: "listen.client.address". Each value is looked up, later wins, in: the defaults,
// the file, the environment variable (HANSE_LISTEN_CLIENT_ADDRESS), the command line (--set
// listen.client.address=...).
//
// Tags: `doc` is the sentence that the printed configuration shows; `secret:"true"` hides a value when it is printed
// and `secret:"dsn"` hides the passwords in connection strings.
//
// Strictness. A key of the file or of the command line that no field has is an error that names the line; so is a
// value of the wrong type, a key twice, a second document. Unknown environment variables are warnings only:
// Kubernetes sets HANSE_PORT and the like for a service named hanse.
package config
