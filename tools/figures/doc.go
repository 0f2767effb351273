// Command figures prints the generated tables of docs anew, in the form that they have there.
//
// A table of docs/*.md that the command knows has a mark before it: <!-- figures: NAME -->. Its numbers come from benchmarks, which
// the command runs, or from the reports that tools/loadgen/suite.sh writes into a directory. With --write the command replaces the
// tables in docs. A test demands that each mark has a table here and each table a mark.
package main
