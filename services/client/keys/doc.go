// Package keys is the concern of end-to-end encryption: keys of devices, cross-signing, key backup, dehydrated devices, messages to
// devices, and which users' keys have changed.
package keys
