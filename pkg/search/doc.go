// Package search finds events by the words in them.
//
// # Model
//
// Table search has a row for each event whose text may be searched for (client-server API, "Server Side Search"): the words of the
// text, cut by package words, under the event's number. The index over it begins with the partition and the room. Encrypted events
// have no row: their text is not known.
//
// Workers of role client follow the log (package follow), each its share of the partitions, and write rows once a second:
// nothing that is sent waits for the index. A row is written twice if a worker dies: harmless. The truth is in the events:
// whatever is found is looked up there, so that an event that is redacted is not found from that moment on, although its row goes
// when the log brings the redaction. Rebuild makes all rows anew from the events, while everything runs.
//
// # Bounds
//
// A text has at most words.MaxWords words, a query MaxQuery. In one room at most maxMatches matches of a query are looked at.
package search
