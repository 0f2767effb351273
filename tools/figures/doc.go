// Command figures prints the tables of docs anew, in the form that they have there.
//
// A table of docs/*.md that it knows has a mark before it: <!-- figures: NAME -->. Its numbers come from benchmarks, which the
// command runs, or from the reports that tools/loadgen/suite.sh leaves in a directory. With --write the tables in docs are
// replaced. A test demands that each mark has a table here and each table a mark.
package main
