// Package core is what the concerns of the role client share: the routes' groups and who may use them, who makes a request and what
// its path says, limits and quotas, answers, questions to other servers, and tasks.
//
// Each concern (account, keys, rooms, ...) is a type that embeds *Core and has what it needs beyond it. It registers its endpoints
// with its method Routes, and the tasks that it does with Tasks.Do. Concerns may use others, but never in a circle; what two of them
// need and neither owns is here, or in a package of its own (access, sharing, filter, uia).
//
// # Tasks
//
// A task is work that a request promises and cannot do in its own transaction: it is stored in that transaction. The worker starts on
// it at once (Tasks.StartAndWait). If the worker dies or the task fails, some worker finds it again (Tasks.Run).
package core
