/*
 * The lock protocol as a model for Spin, which tries its steps in every order. docs/protocol.md explains the protocol and,
 * in its last section, this model; scripts/model runs it.
 *
 * One step here is one system call on shared state there; names in comments are the functions of src/ that it stands for. A
 * process may die before each of its steps. It may also be stopped: that is a process whose next step does not come, for a
 * while or ever. Acquisitions, deaths and removals are not counted, so a run may have any number of them; only the number of
 * processes is bounded.
 *
 * Chosen with -D:
 *   PROCESSES=n   how many processes contend for one lock: 2 to 4, by default 3
 *   THREADS       each has a second thread, which writes, releases or cleans up whenever it likes
 *   UNVERIFIED    of some owners nobody can see that they live, so that age decides (policies `aged_unverified` and
 *                 `unknown_owner`)
 *   FORCE=n       processes from number n on are operators too, who remove locks whose owners live
 *   JOIN          processes also write under another's hold (LockManager::join)
 *   HEIRS=n       holders start children that inherit their descriptor (SessionLock::spawn_with) and outlive them or not; of
 *                 such children n live at a time, 1 or 2
 *   UNDO          a take-over may turn out to be of no use to its caller, and is undone; and sweeps look for what was kept
 *   FOREIGN       one more program makes its lock files by create-then-write
 *   LIVENESS      for the search for wedges and livelocks: see `calm` and `waits`
 *   CHECK=n       only the property of this number; otherwise all five
 *   WITNESS       verifiers print which noteworthy situations they came across
 *   MUTANT=n      the protocol without one of its protections
 */

#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef MUTANT
#define MUTANT 0
#endif

/* --- what is to be shown ---------------------------------------------------------------------------------------------- */

#define ONE_WRITER 1   /* at most one guarded writer at any time */
#define RIGHT_INODE 2  /* nobody unlinks or replaces an inode other than the one it judged, or made */
#define ALIVE_STAYS 3  /* a lock that was whole, and its owner alive, when its remover locked it, is removed by force only */
#define NOT_SILENTLY 4 /* whoever loses a hold, or never had what it published, lost it to an operator or to a policy */
#define TOLD_ONCE 5    /* an owner's death is reported to the very next acquisition, or to what removed its lock; never twice */
/* That a free or a dead lock can be obtained is checked by LIVENESS: no wedge and no livelock. */

#ifdef CHECK
#define HOLDS(property, condition) assert(property != CHECK || (condition))
#else
#define HOLDS(property, condition) assert(condition)
#endif

#define NO_FLOCK 1               /* reclaim judges again, compares and unlinks, but takes no flock */
#define NO_RECHECK 2             /* reclaim unlinks as soon as it has the flock */
#define RELEASE_BY_PATH 3        /* release unlinks whatever has the name */
#define CREATE_THEN_WRITE 4      /* publish creates the file under its name and then writes the record */
#define CLEANUP_BY_FLOCK 5       /* clean-up enters by flock alone, whatever the hold's phase is */
#define NO_COMPARISON 6          /* reclaim judges again under the flock, but does not compare inode and name */
#define NO_SECOND_JUDGEMENT 7    /* reclaim compares under the flock, but does not judge again */
#define NO_PIN 8                 /* reclaim remembers the inode's number instead of keeping the file open */
#define GUARD_WITHOUT_FLOCK 9    /* a guarded write compares, but takes no flock */
#define GUARD_WITHOUT_COMPARE 10 /* a guarded write takes the flock, but does not compare */
#define GUARD_BY_FLOCK 11        /* a guarded write enters by flock alone, whatever the hold's phase is */
#define LASTING_LOCK 12          /* a reclaimer's lock that its death leaves behind, as a guard file would be */
#define RESTLESS_WAIT 13         /* waiters look again at once, whether anything has changed or not */
#define REMOVE_THEN_PUBLISH 14   /* a take-over in two steps: the dead lock is removed, then anybody may publish */
#define LET_GO_EARLY 15          /* a take-over unlocks the judged inode before it replaces it */
#define LOSE_TAKE_OVER 16        /* a take-over that reaches no caller is released like any other hold */
#define UNGUARDED_KEEPING 17     /* what was replaced is kept without its flock, so that a sweep takes it for left behind */
#define UNDO_BY_PATH 18          /* a take-over is undone without a look at what the path names */

#ifdef WITNESS
c_decl {
  static int seen[32];
  static void see(int number, int who, const char* what) {
    if (!seen[number]++) {
      printf("seen: %c: %s\n", 'A' + who, what);
    }
  }
};
#define SEEN(number, what) c_code { see(number, Pprocess->me, what); }
#define SEEN_BY_EACH(number, what) c_code { see(number + Pprocess->me, Pprocess->me, what); }
#else
#define SEEN(number, what) skip
#define SEEN_BY_EACH(number, what) skip
#endif

/* Narrates a counterexample when Spin replays it. */
#define SAY(words) printf(words, 'A' + me)
#define SAY_INODE(words, inode) printf(words, 'A' + me, inode)

/* --- what the kernel keeps -------------------------------------------------------------------------------------------- */

#define NONE 0
/* As many numbers as can be in use when a file is made: two for each process, since a take-over keeps what it replaces
 * open, one for each heir or foreign program, and the new one. */
#if defined(FOREIGN)
#define INODES (2 * PROCESSES + 2)
#elif defined(HEIRS)
#define INODES (2 * PROCESSES + HEIRS + 1)
#else
#define INODES (2 * PROCESSES + 1)
#endif

/* What a lock file says, and whoever judges it can see, of its owner (inspector's judge, classify). */
mtype:owner = {
  malformed,  /* nothing usable is written: row 4 of the verdict table, pending and then stale */
  verified,   /* it lives, and something says so: rows 2, 3, 8, 9b, and 12 where nothing may be done about it */
  unverified, /* it lives, but nothing says so: rows 9 and 12, where its age can make it removable */
  dead        /* it is provably gone: rows 5, 6, 7, 10, 11 */
};

byte path;                       /* the inode that the lock's path names, or NONE */
mtype:owner record[INODES + 1];
byte opened[INODES + 1];         /* how many descriptors keep the inode, and so its number, from being used again */
byte locked[INODES + 1];         /* who has the flock: 1 + the number of the process; 0: nobody */

#ifdef HEIRS
/* A child has the holder's open file description too. Once the holder is dead, whatever it left locked is the child's. */
mtype:inheritance = { shared, left };
mtype:inheritance heir[INODES + 1];
byte heirs_alive;
#define locked_by_heir (1 + PROCESSES)
#define is_inherited(inode) (heir[inode] != 0)
#else
#define is_inherited(inode) false
#endif

/* Only for the properties: nobody's next step depends on these. */
byte writers;                    /* guarded writes under way */
byte judged[INODES + 1];         /* bit p: process p judged, or made, this very file, not an earlier one of this number */
bit taken[INODES + 1];           /* it was unlinked by force or for its age, while its owner lived */
#ifdef UNDO
bit kept[INODES + 1];            /* it has a temporary name: a take-over replaced it, and may be undone */
#endif
bit unreported;                  /* the owner of the file that the path names has died, and no acquisition or removal knows */

#define my_bit (1 << me)
/* flock(2) belongs to the open file description: it never keeps a thread from what another thread locked through it. */
#define can_lock(inode) (locked[inode] == 0 || locked[inode] == 1 + me)

/* open(O_CREAT) of a new inode: takes the lowest number nobody uses. Which one does not matter where all that are known to
 * anybody are pinned, and the mutant NO_PIN needs no other. */
#ifdef UNDO
#define has_name(inode) (path == inode || kept[inode])
#else
#define has_name(inode) (path == inode)
#endif
inline create(inode) {
  inode = 1;
  do
  :: opened[inode] > 0 || has_name(inode) -> inode++
  :: else -> break
  od;
  assert(inode <= INODES);
  opened[inode] = 1;
  judged[inode] = my_bit
}

inline open(inode) {
  inode = path;
  opened[inode]++
}

inline forget(inode) {
  record[inode] = 0;
  judged[inode] = 0;
  taken[inode] = 0
}

inline unlock(inode) {
  if
  :: locked[inode] == 1 + me -> locked[inode] = 0
  :: else
  fi
}

/* close(2) of the lock file by its holder, or by the holder's death. */
inline close_hold() {
#ifdef HEIRS
  if
  :: hold != NONE && !joined && heir[hold] == shared ->
     heir[hold] = left;
     if
     :: locked[hold] == 1 + me -> locked[hold] = locked_by_heir
     :: else
     fi
  :: else
  fi;
#endif
  close(hold)
}

/* close(2): with the description go its flock and, with the last one, an inode without a name. */
inline close(inode) {
  if
  :: inode != NONE ->
     unlock(inode);
#if MUTANT != NO_PIN
     judged[inode] = judged[inode] & ~my_bit;
#endif
     opened[inode]--;
     if
     :: opened[inode] == 0 && !has_name(inode) -> forget(inode)
     :: else
     fi;
     inode = NONE
  :: else
  fi
}

/* renameat2(2) of another file and what the path names: that loses the name. */
inline take_name(inode) {
  SAY_INODE("%c: takes the path, which names inode %d\n", path);
  HOLDS(RIGHT_INODE, path != NONE && (judged[path] & my_bit) != 0);
  if
  :: path != NONE && opened[path] == 0 -> forget(path)
  :: else
  fi;
  path = inode
}

/* unlinkat(2): takes the name away from whatever has it by now. ENOENT is fine. */
inline unlink() {
  if
  :: path != NONE ->
     SAY_INODE("%c: unlinks the path, which names inode %d\n", path);
     HOLDS(RIGHT_INODE, (judged[path] & my_bit) != 0);
     if
     :: opened[path] == 0 -> forget(path)
     :: else
     fi;
     path = NONE
  :: else
  fi
}

/* --- a process -------------------------------------------------------------------------------------------------------- */

mtype:step = {
  /* Acquisition: publish_lock, look_at_lock; ForcedRelease::attempt */
  seek, waits, write_record, judge, lock, judge_again, compare, remove, replace, let_go, undo_lock, undo_compare, undo,
  /* Hold: `rest` is a thread that does nothing with it */
  rest, guard_lock, guard_compare, write, end_lock, end_compare, end_unlink, end_unlock
};
mtype:hold_phase = { idle, guarded, ending, ended }; /* HoldPhase */

/*
 * Searching for wedges and livelocks (LIVENESS). Everybody may die, any number of times, until `calm`. From then on nobody
 * dies, and every process but A may stop for ever, unless it has the lock, or some flock. What must not happen then:
 *   wedge: A is neither stopped nor can it go on, and nor can anybody else (an invalid end state);
 *   livelock: some go on for ever, yet nobody acquires or writes any more (a non-progress cycle).
 * Time passes in these runs: what age can make removable is removable. Waiters sleep until a look would find something else
 * than the last one, because the real ones, who look now and then, change nothing by looking in vain. Nobody gives up.
 */
#ifdef LIVENESS
bit calm;
#define PROGRESS goto progress_made
#define may_spare(inode) (record[inode] == verified)
#define look_later waits
#else
#define calm false
#define PROGRESS
#define may_spare(inode) (record[inode] != dead)
#define look_later seek
#endif
/* The age of what is neither verified nor dead is not modelled: it is both young and old enough, each time it is asked. */
#define may_remove(inode) (record[inode] != verified)
#if MUTANT == RESTLESS_WAIT
#define worth_a_look true
#else
#define worth_a_look (path == NONE || (may_remove(path) && locked[path] == 0))
#endif

/* ReplacedFile: what was replaced has a temporary name until the acquisition has reached its caller. */
#ifdef UNDO
#define keep_replaced kept[pin] = 1; told = unreported
#define discard_replaced kept[pin] = 0; told = 0
#else
#define keep_replaced skip
#define discard_replaced skip
#endif

/* The kernel, at a death: descriptors are closed, and with them go flock, witness and pins. The pid is nobody's then, or a
 * process's that started later; that one contends anew. */
inline die() {
  SAY("%c: dies\n");
  if
  :: first == write || second == write -> writers--
  :: else
  fi;
  if
  :: hold != NONE && !joined && record[hold] != malformed && !is_inherited(hold) -> record[hold] = dead
  :: else
  fi;
  if
  :: hold != NONE && !joined && path == hold -> unreported = 1
  :: else
  fi;
  if
  :: pin != NONE && locked[pin] == 1 + me -> SEEN(1, "a reclaimer dies with the flock")
  :: else
  fi;
#ifdef HEIRS
  if
  :: hold != NONE && path == hold && !joined && is_inherited(hold) -> SEEN(13, "an heir keeps a dead holder's lock")
  :: else
  fi;
#endif
#if MUTANT == LASTING_LOCK
  if
  :: pin != NONE && locked[pin] == 1 + me -> locked[pin] = 1 + PROCESSES
  :: else
  fi;
#endif
#if MUTANT == NO_PIN
  if
  :: first == lock -> pin = NONE
  :: else
  fi;
#endif
#ifdef UNDO
  /* A temporary name that a death leaves behind concerns nobody: a sweep may come at once. */
  if
  :: hold != NONE && pin != NONE -> discard_replaced
  :: else
  fi;
  told = 0;
#endif
  close_hold();
  close(pin);
  first = seek;
  second = rest;
  phase = ended;
  joined = 0;
  forcing = 0;
  alive_when_locked = 0
}

/* publish: Candidate::give_name. What comes before it happens to a file without a name, which nobody else can see. */
inline publish(owner) {
  create(hold);
  path = hold;
  HOLDS(TOLD_ONCE, !unreported);
#if MUTANT == CREATE_THEN_WRITE
  SAY_INODE("%c: creates the lock file, inode %d\n", hold);
  record[hold] = malformed;
  first = write_record
#else
  SAY_INODE("%c: publishes inode %d\n", hold);
  record[hold] = owner;
  phase = idle;
  first = rest
#endif
}

/* The end of a look or of a removal: leave_guard, and the descriptor's end. */
inline stop_looking(next) {
  close(pin);
  forcing = 0;
  alive_when_locked = 0;
  first = next
}

/* What becomes of the judged file: it is removed or replaced by one who may. */
inline account_for_judged() {
  HOLDS(ALIVE_STAYS, !(alive_when_locked && record[pin] == verified));
  if
  :: forcing -> taken[pin] = 1; SEEN(2, "a living owner's lock is removed by force")
  :: !forcing && record[pin] == unverified -> taken[pin] = 1; SEEN(3, "a living owner's lock is removed for its age")
  :: else
  fi
}

/* A sweep or an operator: unlinkat. What was removed is in its report. */
inline remove_judged() {
  account_for_judged();
  unlink();
  if
  :: record[pin] == dead -> SEEN(4, "a dead owner's lock is removed by a sweep")
  :: else
  fi;
#if MUTANT != REMOVE_THEN_PUBLISH
  unreported = 0;
#endif
  first = let_go
}

/* An acquire: its own candidate and the judged file exchange their names. What it replaced is in
 * SessionLock::reclaimed_from. */
inline replace_judged() {
  account_for_judged();
  create(hold);
  keep_replaced;
  take_name(hold);
  SAY_INODE("%c: takes over, with inode %d\n", hold);
  if
  :: record[pin] == dead -> SEEN(14, "a dead owner's lock is taken over")
  :: else
  fi;
  unreported = 0;
  record[hold] = verified;
#if MUTANT == UNGUARDED_KEEPING
  unlock(pin);
#endif
  first = let_go
}

#ifdef UNDO
/* A take-over that can reach no caller, because the session's path leads elsewhere meanwhile, is undone: the file that it
 * replaced gets its name back, for the next one to find. */
inline put_back() {
  if
  :: kept[pin] ->
     take_name(pin);
     unreported = told;
     SEEN(15, "a take-over is undone")
  :: else ->
     unlink();
     unreported = told
  fi
}

inline sweep_kept() {
  pin = 1;
  do
  :: pin <= INODES && !(kept[pin] && locked[pin] == 0) -> pin++
  :: else -> break
  od;
  if
  :: pin <= INODES -> SAY_INODE("%c: sweeps inode %d, which is kept\n", pin); kept[pin] = 0
  :: else
  fi;
  pin = NONE
}

inline abandon_take_over() {
  discard_replaced;
  close_hold();
  first = let_go
}
#endif

/* Acquisition: publish_lock, look_at_lock and rest, with pin, judge and take_over; ForcedRelease::attempt. */
inline contend() {
  if
  /* publish, the path being free. */
  :: d_step { first == seek && path == NONE -> publish(verified) } PROGRESS
#ifdef UNVERIFIED
  :: d_step { first == seek && path == NONE -> publish(unverified) } PROGRESS
#endif
#if MUTANT == CREATE_THEN_WRITE
  :: d_step {
       first == write_record ->
       SAY_INODE("%c: writes its record into inode %d, and has the lock\n", hold);
       HOLDS(NOT_SILENTLY, path == hold);
       record[hold] = verified;
       phase = idle;
       first = rest
     }
#endif
  /* pin: openat. That a link failed (EEXIST) before leaves no trace. */
  :: d_step { first == seek && path != NONE -> open(pin); first = judge }
  /* Waiter::begin_rest, Parker::sleep */
  :: d_step { first == waits && worth_a_look -> first = seek }

  /* judge, on what `pin` read. */
  :: d_step {
       first == judge && may_remove(pin) ->
       SAY_INODE("%c: judges inode %d removable\n", pin);
       judged[pin] = judged[pin] | my_bit;
#if MUTANT == NO_PIN
       opened[pin]--;
       if
       :: opened[pin] == 0 && path != pin -> forget(pin)
       :: else
       fi;
#endif
       first = lock
     }
  :: d_step { first == judge && may_spare(pin) -> stop_looking(look_later) }
#ifdef FORCE
  /* ForcedRelease::judge_and_check: the operator named this acquisition, and means it. */
  :: d_step {
       me >= FORCE && first == seek && path != NONE && record[path] != malformed ->
       open(pin);
       SAY_INODE("%c: is to remove inode %d by force\n", pin);
       judged[pin] = judged[pin] | my_bit;
       forcing = 1;
       first = lock
     }
#endif

  /* reclaim: flock. */
#if MUTANT == NO_FLOCK
  :: d_step { first == lock -> first = judge_again }
#elif MUTANT == NO_PIN
  :: d_step { first == lock && path == pin && can_lock(pin) -> opened[pin]++; locked[pin] = 1 + me; first = remove }
  :: d_step { first == lock && !(path == pin && can_lock(pin)) -> pin = NONE; first = look_later }
#else
  :: d_step {
       first == lock && can_lock(pin) ->
       SAY_INODE("%c: locks inode %d\n", pin);
       locked[pin] = 1 + me;
       alive_when_locked = (record[pin] == verified && !forcing);
#if MUTANT == NO_RECHECK
       first = remove
#elif MUTANT == NO_SECOND_JUDGEMENT
       first = compare
#else
       first = judge_again
#endif
     }
  :: d_step { first == lock && !can_lock(pin) -> SEEN(5, "a reclaimer finds the inode locked"); stop_looking(look_later) }
#endif

  /* reclaim_locked: read_again and judge, or judge_and_check. */
  :: d_step {
       first == judge_again && (forcing || may_remove(pin)) ->
       SAY_INODE("%c: judges inode %d again\n", pin);
#if MUTANT == NO_COMPARISON
       first = remove
#else
       first = compare
#endif
     }
  :: d_step {
       first == judge_again && !forcing && may_spare(pin) ->
       SEEN(6, "a lock is spared by the second judgement");
       stop_looking(look_later)
     }
  /* reclaim_locked: names_inode. */
  :: d_step { first == compare && path == pin -> SAY_INODE("%c: finds that the path names inode %d\n", pin); first = remove }
#if MUTANT != REMOVE_THEN_PUBLISH
  :: d_step {
       first == compare && path == pin && !forcing ->
       SAY_INODE("%c: finds that the path names inode %d\n", pin);
#if MUTANT == LET_GO_EARLY
       unlock(pin);
#endif
       first = replace
     }
#endif
  :: d_step {
       first == compare && path != pin ->
       SEEN(7, "a reclaimer finds the path gone or another's");
       stop_looking(seek)
     }
  /* reclaim_locked: unlinkat; then the end of its InodeGuard. */
  :: d_step { first == remove -> remove_judged() }
  :: d_step { first == let_go && hold == NONE -> stop_looking(seek) }
  /* take_over: renameat2; then Acquisition::complete, and ReplacedFile::discard. */
  :: d_step { first == replace -> replace_judged() } PROGRESS
  :: d_step { first == let_go && hold != NONE -> discard_replaced; stop_looking(rest); phase = idle }
#ifdef UNDO
  /* ... or it finds that the session's path leads elsewhere. HoldCore::try_unlink: flock, names_inode; then
   * ReplacedFile::put_back: renameat2; the end of the judged inode's flock is `let_go`. */
  :: d_step { first == let_go && hold != NONE -> first = undo_lock }
#if MUTANT == UNDO_BY_PATH
  :: d_step { first == undo_lock && can_lock(hold) -> locked[hold] = 1 + me; first = undo }
#else
  :: d_step { first == undo_lock && can_lock(hold) -> locked[hold] = 1 + me; first = undo_compare }
#endif
  :: d_step { first == undo_compare && path == hold -> first = undo }
  :: d_step { first == undo_compare && path != hold -> abandon_take_over() }
  :: d_step {
       first == undo ->
#if MUTANT == LOSE_TAKE_OVER
       unlink();
       unreported = told;
#else
       put_back();
#endif
       abandon_take_over()
     }
  /* remove_if_left_behind, by a sweep: a kept file that nobody has locked is removed. */
  :: d_step { first == seek -> sweep_kept() }
#endif

#ifdef JOIN
  /* LockManager::join: this descriptor is another than the holder's, and so is its flock. */
  :: d_step {
       first == seek && path != NONE && record[path] != malformed ->
       open(hold);
       SAY_INODE("%c: joins the hold on inode %d\n", hold);
       joined = 1;
       phase = idle;
       first = rest
     }
#endif
  fi
}

/* HoldCore::try_enter or Hold::verify finds another inode under the path, or none: Hold::end(lost). */
inline lose(thread) {
  SAY("%c: finds its lock lost\n");
  HOLDS(NOT_SILENTLY, taken[hold] || joined);
  unlock(hold);
  phase = ended;
  thread = rest
}

inline begin_write(thread) {
  SAY_INODE("%c: begins a guarded write under inode %d\n", hold);
  HOLDS(ONE_WRITER, writers == 0);
  writers++;
  SEEN_BY_EACH(20, "writes, guarded");
  if
  :: joined -> SEEN(8, "writes under another's hold")
  :: else
  fi;
  thread = write
}

inline end_write(thread, next_phase, next_step) {
  SAY("%c: ends the guarded write\n");
  writers--;
  unlock(hold);
  phase = next_phase;
  thread = next_step
}

#if MUTANT == RELEASE_BY_PATH
#define first_step_of_end end_unlink
#else
#define first_step_of_end end_lock
#endif
#if MUTANT == GUARD_WITHOUT_FLOCK
#define first_step_of_guard guard_compare
#else
#define first_step_of_guard guard_lock
#endif
#if MUTANT == GUARD_WITHOUT_COMPARE
#define may_write true
#else
#define may_write (path == hold)
#endif

/* What one thread of a process, `first` or `second`, does with the hold. A step ends with the change of phase that follows
 * in the code, because nothing but this process's own threads, which wait for it, can see that. */
inline use_hold(thread) {
  if
  /* Hold::enter_guard: claim. */
#if MUTANT == GUARD_BY_FLOCK
  :: d_step { thread == rest && hold != NONE && phase != ended -> thread = first_step_of_guard }
#else
  :: d_step { thread == rest && phase == idle -> phase = guarded; thread = first_step_of_guard }
#endif
  /* HoldCore::try_enter, try_enter_guard: flock. */
  :: d_step { thread == guard_lock && can_lock(hold) -> locked[hold] = 1 + me; thread = guard_compare }
  /* try_enter_guard: names_inode; then what `guarded` runs. */
  :: d_step { thread == guard_compare && may_write -> begin_write(thread) }
  :: d_step {
       thread == guard_compare && !may_write ->
       if
       :: taken[hold] && record[hold] == verified -> SEEN(9, "a guarded write finds its lock lost to force")
#ifndef FORCE
       :: taken[hold] && record[hold] == unverified -> SEEN(10, "a guarded write finds its lock lost to age")
#endif
       :: else
       fi;
       lose(thread)
     }
  /* Hold::verify: names_inode, without any flock. */
  :: d_step { thread == rest && phase == idle && path != hold -> lose(thread) }
  /* Hold::leave_guard */
  :: d_step { thread == write -> end_write(thread, idle, rest) } PROGRESS
  /* Hold::leave_guard and release_after_guard, if `release` was called inside. */
  :: d_step { thread == write && !joined -> end_write(thread, ending, first_step_of_end) } PROGRESS

#ifdef HEIRS
  /* Hold::spawn: posix_spawn, between claim and settle. */
  :: d_step {
       thread == rest && phase == idle && !joined && heir[hold] == 0 && heirs_alive < HEIRS ->
       SAY_INODE("%c: starts a child that inherits inode %d\n", hold);
       heir[hold] = shared;
       heirs_alive++;
       opened[hold]++
     }
#endif

  /* Hold::release: claim; and HoldCore::try_end (clean-up at exit or by a signal, watchdog, retry): compare_exchange. */
  :: d_step { thread == rest && phase == idle && !joined -> phase = ending; thread = first_step_of_end }
  :: d_step { thread == rest && phase == idle && joined -> phase = ended }
  /* HoldCore::try_unlink: flock, names_inode, unlinkat, LOCK_UN; then Hold::end. */
  :: d_step { thread == end_lock && can_lock(hold) -> locked[hold] = 1 + me; thread = end_compare }
  :: d_step { thread == end_compare && path == hold -> thread = end_unlink }
  :: d_step { thread == end_compare && path != hold -> SEEN(11, "a release finds its lock lost"); lose(thread) }
  :: d_step { thread == end_unlink -> SEEN(12, "a lock is released"); unlink(); thread = end_unlock }
  :: d_step { thread == end_unlock -> unlock(hold); phase = ended; thread = rest }

#ifndef LIVENESS
  /* Hold::persist, its time being over, and what only tries: somebody else has the flock, and the hold goes on. */
  :: d_step { thread == guard_lock && !can_lock(hold) -> phase = idle; thread = rest }
  :: d_step { thread == end_lock && !can_lock(hold) -> phase = idle; thread = rest }
#endif
  fi
}

proctype process(byte me) {
  byte hold;             /* the inode that it published, open */
  byte pin;              /* the inode that it looks at, open */
  mtype:step first = seek, second = rest;
  mtype:hold_phase phase = ended;
  bit joined;            /* `hold` is another process's */
  bit forcing;           /* as an operator, who judges by name */
#ifdef UNDO
  bit told;              /* what this process has just replaced was a dead owner's, of which no other process knew */
#endif
  bit alive_when_locked; /* for ALIVE_STAYS */

again:
  do
  :: contend()
  :: use_hold(first)
#ifdef THREADS
  :: use_hold(second)
#if MUTANT == CLEANUP_BY_FLOCK
  :: d_step {
       second == rest && hold != NONE && phase != ended && !joined ->
       SAY("%c: begins to clean up\n");
       second = end_lock
     }
#endif
#endif
  /* Hold::~Hold, with the last handle. */
  :: d_step { first == rest && second == rest && phase == ended -> close_hold(); joined = 0; first = seek }

  :: d_step { !calm -> die() } PROGRESS
#ifdef LIVENESS
  :: d_step {
       calm && me != 0 && !(hold != NONE && path == hold) && locked[hold] != 1 + me && locked[pin] != 1 + me ->
       SAY("%c: is stopped for ever\n")
     }
     break
#endif
  od;
#ifdef LIVENESS
  goto stopped;
progress_made:
  skip;
  goto again;
stopped:
#endif
}

#ifdef FOREIGN
/* A program that knows nothing of the protocol: open(O_CREAT|O_EXCL), write, and later its death. That it never deletes its
 * lock is the model's limit and not the program's. */
proctype foreign(byte me) {
  byte file;

  do
  :: d_step {
       file == NONE && path == NONE ->
       create(file);
       SAY_INODE("%c: creates the lock file, inode %d, empty\n", file);
       record[file] = malformed;
       path = file
     }
  :: d_step {
       file != NONE && record[file] == malformed ->
       SAY_INODE("%c: writes its record into inode %d\n", file);
       record[file] = verified
     }
  :: d_step { file != NONE && record[file] == malformed -> record[file] = unverified }
  :: d_step {
       file != NONE ->
       SAY("%c: dies\n");
       if
       :: record[file] != malformed -> record[file] = dead
       :: else
       fi;
       if
       :: path == file -> unreported = 1
       :: else
       fi;
       close(file)
     }
  od
}
#endif

#ifdef HEIRS
/* The children that have inherited: all that matters of them is when they end. */
inline end_heir(inode) {
  printf("the heir of inode %d ends\n", inode);
  if
  :: heir[inode] == left && record[inode] != malformed -> record[inode] = dead
  :: else
  fi;
  if
  :: locked[inode] == locked_by_heir -> locked[inode] = 0
  :: else
  fi;
  heir[inode] = 0;
  heirs_alive--;
  opened[inode]--;
  if
  :: opened[inode] == 0 && path != inode -> forget(inode)
  :: else
  fi
}

proctype heirs() {
  byte file;

  do
  :: d_step {
       heirs_alive > 0 ->
       file = 1;
       do
       :: heir[file] == 0 -> file++
       :: else -> break
       od;
       end_heir(file);
       file = 0
     }
  :: d_step { /* the other of two */
       heirs_alive > 1 ->
       file = INODES;
       do
       :: heir[file] == 0 -> file--
       :: else -> break
       od;
       end_heir(file);
       file = 0
     }
  od
}
#endif

init {
  atomic {
    run process(0);
    run process(1);
#if PROCESSES > 2
    run process(2);
#endif
#if PROCESSES > 3
    run process(3);
#endif
#ifdef FOREIGN
    run foreign(PROCESSES)
#endif
#ifdef HEIRS
    run heirs()
#endif
  }
#ifdef LIVENESS
  calm = 1
#endif
}
