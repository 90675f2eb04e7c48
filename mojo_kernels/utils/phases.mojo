"""Parallel phases, one after the other, on threads that wait for each other without the operating system.

Waking the pool's threads and waiting for them takes longer than a small layer's work, and an atomic counter 100 times
less. So threads are woken once for many phases, and for many rounds of the same phases. Tickets, each for some units of
a phase, are handed out in order, and whoever holds one waits until all of the phase before is done; as a ticket that
others wait for is being worked on, someone always goes on.

A phase may have slices, whose tickets go to the threads that had the same slice of other phases, as long as there are
any: so a thread finds in its own caches what it wrote there before.
"""

from std.atomic import Atomic, Ordering
from std.ffi import external_call
from std.math import ceildiv
from std.runtime import parallelism_level
from std.sys import CompilationTarget, inlined_assembly
from max.algorithm import sync_parallelize

from .parallel import MIN_WORK_PER_TASK
from .types import WritePtr, untracked

comptime TICKETS_PER_THREAD = 16
"""Of a phase: fewer keep counters quiet, more share work evenly."""
comptime SPINS = 500
"""Looks at a counter before the operating system may run something else."""
comptime LINE = 8
"""Counters that share a cache line, of which only one is used."""


@fieldwise_init
struct Ticket(TrivialRegisterPassable):
    """Some units of a phase of a round."""

    var round: Int
    var phase: Int
    var begin: Int
    var end: Int


struct PhaseQueue[phases: Int]:
    """Hands out tickets, and knows which phases are done.

    Parameters:
        phases: How many there are.
    """

    var units: Array[Int, Self.phases]
    var slices: Array[Int, Self.phases]
    """Into how many parts a phase's tickets are divided."""
    var threads: Int
    var rounds: Int
    var grain: Array[Int, Self.phases]
    """Units of a ticket."""
    var first: Array[Int, Self.phases + 1]
    """Number in its round of a phase's first ticket."""
    var counters: Array[Int64, (Self.phases + 1) * LINE]
    """Tickets handed out, and behind it, for each phase, tickets done, in all rounds."""
    var taken: List[Int64]
    """[phases, most slices], a cache line each: tickets of a slice that were handed out, in all rounds."""

    def __init__(
        out self, units: Array[Int, Self.phases], slices: Array[Int, Self.phases], threads: Int, rounds: Int
    ):
        """A queue from its start.

        Args:
            units: Independent units of work of each phase; none is fine.
            slices: Into how many parts to divide each phase; at most as many as threads.
            threads: Threads that will take tickets.
            rounds: How often all phases are gone through.
        """
        self.units = units.copy()
        self.slices = slices.copy()
        self.threads = threads
        self.rounds = rounds
        self.grain = {fill = 1}
        self.first = {fill = 0}
        self.counters = {fill = 0}
        self.taken = List[Int64](length=Self.phases * threads * LINE, fill=0)
        for p in range(Self.phases):
            self.grain[p] = max(1, units[p] // (threads * TICKETS_PER_THREAD) if threads > 1 else units[p])
            self.first[p + 1] = self.first[p] + ceildiv(units[p], self.grain[p])

    @always_inline
    def counter(self, index: Int) -> WritePtr[DType.int64]:
        """The counter of tickets handed out (0), or of those done of phase `index - 1`."""
        return untracked(self.counters.unsafe_ptr().unsafe_mut_cast[True]()).unsafe_offset(index * LINE)

    def take(self, thread: Int, mut ticket: Ticket) -> Bool:
        """Replaces a thread's ticket, at first one of round and phase 0, by its next one; false when there is none."""
        var number = Int(Atomic[Int64].fetch_add(self.counter(0), 1))
        var a_round = self.first[Self.phases]
        if number >= self.rounds * a_round:
            return False
        number -= ticket.round * a_round
        while number >= self.first[ticket.phase + 1]:
            ticket.phase += 1
            if ticket.phase == Self.phases:
                ticket.phase = 0
                ticket.round += 1
                number -= a_round
        number -= self.first[ticket.phase]
        if self.slices[ticket.phase] > 1:
            number = self.choose(thread, ticket)
        ticket.begin = number * self.grain[ticket.phase]
        ticket.end = min(ticket.begin + self.grain[ticket.phase], self.units[ticket.phase])
        return True

    def choose(self, thread: Int, ticket: Ticket) -> Int:
        """The number in its phase of a ticket that nobody has: of the thread's own slice if that has any left. As many
        threads choose as there are tickets, so there is one, once those that are still to choose in earlier rounds have.
        """
        var slices = self.slices[ticket.phase]
        var tickets = self.first[ticket.phase + 1] - self.first[ticket.phase]
        var own = thread * slices // self.threads
        var i = 0
        while True:
            var slice = (own + i) % slices
            var begin = tickets * slice // slices
            var count = tickets * (slice + 1) // slices - begin
            var place = (ticket.phase * self.threads + slice) * LINE
            var counter = untracked(self.taken.unsafe_ptr().unsafe_mut_cast[True]()).unsafe_offset(place)
            var before = Atomic[Int64].load[ordering = Ordering.RELAXED](counter)
            while ticket.round * count <= Int(before) < (ticket.round + 1) * count:
                if Atomic[Int64].compare_exchange(counter, before, before + 1):
                    return begin + Int(before) - ticket.round * count
            i += 1

    @always_inline
    def ready(self, ticket: Ticket) -> Bool:
        """Whether everything that the ticket needs is done."""
        var p = ticket.phase
        var rounds = ticket.round + 1
        while p == 0 or self.units[p - 1] == 0:
            if p == 0:
                p = Self.phases
                rounds -= 1
            else:
                p -= 1
        var done = Atomic[Int64].load[ordering = Ordering.ACQUIRE](self.counter(p))
        return Int(done) >= rounds * (self.first[p] - self.first[p - 1])

    def wait(self, ticket: Ticket):
        """Waits until everything that the ticket needs is done."""
        var spins = 0
        while not self.ready(ticket):
            comptime if CompilationTarget.is_x86():
                inlined_assembly["pause", NoneType, constraints="~{memory}", has_side_effect=True]()
            spins += 1
            if spins == SPINS:  # there may be fewer cores than threads at the moment
                _ = external_call["sched_yield", Int32]()
                spins = 0

    @always_inline
    def finish(self, ticket: Ticket):
        """Says that the ticket's work is done."""
        _ = Atomic[Int64].fetch_add[ordering = Ordering.RELEASE](self.counter(ticket.phase + 1), 1)


def team_size(work: Int) -> Int:
    """Threads that pay for so many operations."""
    return max(1, min(parallelism_level(), work // MIN_WORK_PER_TASK))


def run_team[Work: def(Int) -> None](threads: Int, worker: Work):
    """Calls `worker(i)`, i from 0 on, on so many threads, at about the same time if they have nothing else to do."""
    if threads == 1:
        worker(0)
        return

    def task(i: Int) {imm}:
        worker(i)

    sync_parallelize(task, threads)
