// Package eventsql is the SQL of the table event: its flags, its columns, and every statement that names more of them than a
// key or a place in the timeline. A column that is added is added here.
//
// A partition's owner writes the table (services/room); roomdb, authgraph and the owner read it. What they look for in the
// timeline of a room is in package roomdb, beside the rules of places.
//
// Look-ups of many rows begin at each key and read one row, in the order of an index, because a plan is made once for a
// connection, when the table may be empty: "key = ANY($2)" would then be a filter over all events of the partition, for as
// long as PostgreSQL has not analysed the table.
package eventsql
