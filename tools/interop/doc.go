// Package interop runs a Hanse cluster beside a Synapse, a server that others wrote, and lets their users meet. It is
// built with the tag interop ('make interop'), as it installs Synapse from PyPI into a virtual environment.
package interop
