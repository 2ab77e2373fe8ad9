/* gc.pml - condemning and deleting packs while others commit.  The rules are in
 * docs/internals/protocol.md, section "Garbage".
 *
 *   X  a committer: packs first, head later, perhaps much later; it also uses pack 0
 *      again (copy_file_range, undo), which the tree may have dropped meanwhile
 *   Y  drops pack 0 from the tree
 *   M  anybody who sees two leaves and merges them
 *   G  a collector: condemns in a commit, looks again, deletes later
 *
 * MOVE: a snapshot keeps pack 0 for ever; the collector first copies what it holds into a pack of its own and says so in
 * its commit (PLACE, MOVE), and only later condemns pack 0.  X may still have the old place in what it publishes.
 * LATE: a commit R kept in the history keeps pack 0 until the collector lets R go; L is a machine that stands on R and
 * publishes a head on top of it whenever it wakes up; a merge lists that head only if R is still kept.
 *
 * RESTART: X ends once, with its head sent or taken over, and starts again with what its journal says: which packs its dot names, and
 * whether it was reported.
 *
 * There is no clock: any step may come after any time, so "grace" is 0 and infinite
 * at once.  What holds here holds with every grace and every suspension.
 * Packs are bits.  A head is three counters (dots of X, Y, G) and the list of the
 * condemned; what its tree names follows from the counters: pack 0 until Y dropped it,
 * and the packs of X's newest dot in it.
 */
/* In the list of the condemned, joined with it: what the collector's and L's dots say. */
#define PLACED	64
#define OF_L	128

#ifndef P
#define P 5		/* packs: 0 the old one, 1 X's own, the others spares of X */
#endif
#ifndef H
#define H 8
#endif
#ifndef ROUNDS
#define ROUNDS 2	/* of the collector */
#endif
#ifndef F
#define F 1		/* answers lost */
#endif
#define DOTS 4		/* of X, at most */

#define FREE	0
#define FLIGHT	1
#define TORN	2
#define WHOLE	3

#define IN(m, k)	(((m) >> (k)) & 1)

byte st[H], hx[H], hy[H], hg[H], hc[H];
byte need[DOTS];		/* the packs that X's dot names; need[0] none */
byte present = 3;		/* packs on the store */
byte faults = F;
#ifdef RESTART
byte restarts = 1;
#endif
byte rep;			/* ghost: packs of X's commit that was reported */

hidden byte i, j, lost;
hidden byte dx, dc;

#define COVERS(a, b)	(hx[a] >= hx[b] && hy[a] >= hy[b] && hg[a] >= hg[b] && (hc[a] & OF_L) >= (hc[b] & OF_L))
#define BEATS(b, a)	(COVERS(b, a) && (!COVERS(a, b) || (b) < (a)))
#ifdef MOVE
#define MOVED	(1 << (P - 1))	/* the collector's pack */
#define SNAPSHOT(c)	((c) & PLACED -> MOVED : 1)
#define NAMED(x, y, g, c)	(need[x] | SNAPSHOT(c))
#define SPARES	(P - 1)
#elif defined(LATE)
#ifdef M_LIST_LATE
#define LISTED(g, c)	((c) & OF_L)
#else
#define LISTED(g, c)	(((c) & OF_L) && (g) == 0)	/* the collector's first dot says that R goes */
#endif
#define NAMED(x, y, g, c)	(need[x] | ((y) == 0 || (g) == 0 || LISTED(g, c) -> 1 : 0))
#define SPARES	P
#else
#define NAMED(x, y, g, c)	(need[x] | ((y) == 0 -> 1 : 0))
#define SPARES	P
#endif

inline list_heads(m)
{
	m = 0;
	for (i : 0 .. H - 1) {
		if
		:: st[i] == TORN || st[i] == WHOLE -> m = m | (1 << i)
		:: else
		fi
	}
	i = 0
}

inline read_heads(m, jx, jy, jg, jc, nl)
{
	jx = 0; jy = 0; jg = 0; jc = 0; nl = 0;
	for (i : 0 .. H - 1) {
		if
		:: IN(m, i) && st[i] == WHOLE ->
			lost = 0;
			for (j : 0 .. H - 1) {
				if
				:: j != i && IN(m, j) && st[j] == WHOLE && BEATS(j, i) -> lost = 1; break
				:: else
				fi
			}
			if
			:: !lost ->
				nl++;
				jx = (hx[i] > jx -> hx[i] : jx);
				jy = (hy[i] > jy -> hy[i] : jy);
				jg = (hg[i] > jg -> hg[i] : jg);
#ifdef M_PLACE_LOST
				jc = jc & ~PLACED;	/* the last tree's word, not both */
#endif
				jc = jc | hc[i]
			:: else
			fi
		:: else
		fi
	}
	i = 0; j = 0; lost = 0;
	m = 0
}

#ifdef M_TAKE_OFF
#define KEPT(c, x, y, g)	((c) & ~NAMED(x, y, g, c))	/* a pack in use leaves the list */
#else
#define KEPT(c, x, y, g)	(c)
#endif

inline send(k, x, y, g, c)
{
	k = 255;
	for (i : 0 .. H - 1) {
		if
		:: k == 255 && st[i] == FREE -> k = i
		:: else
		fi
	}
	i = 0;
	assert(k != 255);
	st[k] = FLIGHT; hx[k] = x; hy[k] = y; hg[k] = g; hc[k] = KEPT(c, x, y, g)
}

/* Expected to fail: an unreported commit can name what is gone. */
inline check()
{
#ifdef W_DANGLING
	dx = 0;
	for (i : 0 .. H - 1) {
		assert(st[i] != WHOLE || (need[hx[i]] & ~present) == 0)
	}
	i = 0; dx = 0
#else
	skip
#endif
}

#define SERVE(k)							\
	:: atomic { st[k] == FLIGHT -> st[k] = TORN }			\
	:: d_step { st[k] == TORN -> st[k] = WHOLE; check() }

proctype server()
{
end:	do
	SERVE(1) SERVE(2) SERVE(3) SERVE(4) SERVE(5) SERVE(6) SERVE(7)
#if H > 8
	SERVE(8)
#endif
#if H > 9
	SERVE(9)
#endif
	od
}

/* Puts spares in the place of the packs in `bad`; X still has the data. */
inline renew(bad)
{
	i = 0;
	do
	:: i < P && IN(bad, i) ->
		assert(spare < SPARES);
		want = want & ~(1 << i) | (1 << spare);
		present = present | (1 << spare);
		spare++; i++
	:: i < P && !IN(bad, i) -> i++
	:: i >= P -> break
	od;
	i = 0; bad = 0
}

proctype X()
{
	short m;
	byte jx, jy, jg, jc, nl;
#ifdef LATE
	byte dot, want = 2, spare = 2, bad, my, known;
#else
	byte dot, want = 3, spare = 2, bad, my, known;
#endif

	/* before its first head: look, then see that the packs exist */
	atomic { d_step { list_heads(m) } }
	d_step { read_heads(m, jx, jy, jg, jc, nl) }
#ifndef M_NO_FIRST_CHECK
	d_step { bad = want & (jc | ~present); renew(bad) }
#endif
freeze:	/* a new dot, also after the second check: the old one stays as it was sent */
	atomic { dot++; assert(dot < DOTS); need[dot] = want }
again:
	atomic { bad = 0; d_step { send(my, dot, jy, jg, jc); jx = 0; jy = 0; jg = 0; jc = 0; nl = 0 } }
	atomic {
		if
		:: st[my] == WHOLE
		:: faults > 0 -> faults--
		fi;
		my = 0
	}
look:
	atomic { m = 0; d_step { list_heads(m) } }
	atomic {
		d_step { read_heads(m, jx, jy, jg, jc, nl) }
		if
		:: jx < dot -> goto again
		:: jx == dot && known < dot -> known = jx;
#ifndef M_FIRST_LOOK
			jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; goto look
#endif
		:: else
		fi
	}
#ifdef RESTART
	if
	:: atomic {
		restarts > 0 -> restarts--; bad = 0; jx = 0; jy = 0; jg = 0; jc = 0; nl = 0;
#ifdef M_RESTART_IS_REPORT
		goto reported	/* what the remembered base contains counts as reported */
#else
		known = 0; goto look
#endif
	   }
	:: true
	fi;
#endif
	/* our head was there before this listing began: now judge the packs */
#ifdef M_NO_SECOND_CHECK
	skip;
#elif defined(M_ONLY_EXISTENCE)
	d_step { bad = want & ~present }
#elif defined(M_ONLY_CONDEMNED)
	d_step { bad = want & jc }
#else
	d_step { bad = want & (jc | ~present) }
#endif
	if
	:: bad -> d_step { renew(bad) }; goto freeze
	:: else
	fi;
#ifdef M_RESTART_IS_REPORT
reported:
#endif
	atomic {
		rep = want; assert((rep & ~present) == 0);
#ifdef MOVE
		assert((SNAPSHOT(jc) & ~present) == 0)
#endif
	}
#ifdef LATE
	/* What a merge of all there is now would list. */
	atomic {
		d_step { m = 0; list_heads(m); read_heads(m, jx, jy, jg, jc, nl) }
		assert(!LISTED(jg, jc) || (present & 1))
	}
#endif
}

proctype Y()
{
	short m;
	byte jx, jy, jg, jc, nl, my;
	atomic { d_step { list_heads(m) } }
	d_step { read_heads(m, jx, jy, jg, jc, nl) }
	d_step { send(my, jx, 1, jg, jc); jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; my = 0 }
}

#ifdef LATE
proctype L()
{
	byte my;
	/* on R, which is older than what Y does */
	d_step { send(my, 0, 0, 0, OF_L); my = 0 }
}
#endif

#ifndef MERGES
#define MERGES 2
#endif
proctype M()
{
	short m;
	byte jx, jy, jg, jc, nl, my, n;
end:	do
	:: n < MERGES ->
		atomic { m = 0; d_step { list_heads(m) } }
		atomic {
			d_step { read_heads(m, jx, jy, jg, jc, nl) }
			if
			:: nl > 1 -> n++
			:: nl <= 1 -> jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; goto end
			fi
		}
		d_step { send(my, jx, jy, jg, jc); jx = 0; jy = 0; jg = 0; jc = 0; nl = 0 }
		atomic { st[my] == WHOLE -> my = 0 }
	:: n == MERGES -> break
	od
}

proctype G()
{
	short m;
	byte jx, jy, jg, jc, nl, my, n, dead, known;
	do
	:: n < ROUNDS ->
		n++;
		/* condemn what nothing names */
		atomic { m = 0; d_step { list_heads(m) } }
		d_step { read_heads(m, jx, jy, jg, jc, nl) }
#ifdef MOVE
		if
		:: !(jc & PLACED) && n == 1 ->
			/* copy, then say so; what it has said is there before anything goes */
			d_step { present = present | MOVED; send(my, jx, jy, n, jc | PLACED) }
			if
			:: atomic { st[my] == WHOLE -> my = 0 }
			:: atomic { faults > 0 -> faults--; my = 0 }
			fi;
			atomic { jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; m = 0; goto next }
		:: else
		fi;
#endif
#ifdef LATE
		d_step { dead = present & ~(need[jx] | (jy == 0 -> 1 : 0)) & ~jc };
#else
		d_step { dead = present & ~NAMED(jx, jy, jg, jc) & ~jc };
#endif
		if
		:: dead ->
#ifdef M_ONE_STEP
			goto delete;
#endif
			d_step { send(my, jx, jy, n, (jc & (present | PLACED | OF_L)) | dead) }
			if
			:: atomic { st[my] == WHOLE -> my = 0 }
			:: atomic { faults > 0 -> faults--; my = 0 }
			fi
		:: else
		fi;
#ifndef M_NO_SECOND_LOOK
		/* look again: what was condemned already when this listing began, and is not named */
		d_step { known = 0; dead = 0; jx = 0; jy = 0; jg = 0; jc = 0; nl = 0 }
		atomic { m = 0; d_step { list_heads(m) } }
		d_step { read_heads(m, jx, jy, jg, known, nl) }
#ifndef M_FIRST_LOOK
		atomic { m = 0; d_step { list_heads(m) } }
		d_step { read_heads(m, jx, jy, jg, jc, nl) }
#else
		d_step { jc = known }
#endif
		if
		:: nl == 1 -> dead = known & jc & present & ~NAMED(jx, jy, jg, jc)
		:: else -> dead = 0
		fi;
#endif
delete:		atomic { jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; known = 0; m = 0 }
		do
		:: dead & 1 -> d_step { dead = dead & ~1; present = present & ~1; assert(!(rep & 1)); check() }
		:: dead & 2 -> d_step { dead = dead & ~2; present = present & ~2; assert(!(rep & 2)); check() }
		:: dead & 4 -> d_step { dead = dead & ~4; present = present & ~4; assert(!(rep & 4)); check() }
		:: dead & 8 -> d_step { dead = dead & ~8; present = present & ~8; assert(!(rep & 8)); check() }
		:: dead & 16 -> d_step { dead = dead & ~16; present = present & ~16; assert(!(rep & 16)); check() }
#if P > 5
		:: dead & 32 -> d_step { dead = dead & ~32; present = present & ~32; assert(!(rep & 32)); check() }
		:: dead & 64 -> d_step { dead = dead & ~64; present = present & ~64; assert(!(rep & 64)); check() }
#endif
		:: !dead -> break
		od;
#ifdef MOVE
next:		skip
#endif
	:: n == ROUNDS -> break
	od
}

init {
	atomic {
		st[0] = WHOLE; run server(); run X(); run M(); run G();
#ifdef LATE
		hy[0] = 1;	/* what Y does was done already: only R names pack 0 */
		run L()
#else
		run Y()
#endif
	}
}
