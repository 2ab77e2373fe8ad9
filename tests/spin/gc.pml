/* gc.pml - condemning and deleting packs while others commit.  The rules are in
 * docs/internals/protocol.md, section "Garbage".
 *
 *   X  a committer: packs first, head later, perhaps much later; it also uses pack 0
 *      again (copy_file_range, undo), which the tree may have dropped meanwhile
 *   Y  drops pack 0 from the tree
 *   M  anybody who sees two leaves and merges them
 *   G  a collector: condemns in a commit, looks again, deletes later
 *
 * There is no clock: any step may come after any time, so "grace" is 0 and infinite
 * at once.  What holds here holds with every grace and every suspension.
 * Packs are bits.  A head is three counters (dots of X, Y, G) and the list of the
 * condemned; what its tree names follows from the counters: pack 0 until Y dropped it,
 * and the packs of X's newest dot in it.
 */
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
byte rep;			/* ghost: packs of X's commit that was reported */

hidden byte i, j, lost;
hidden byte dx, dc;

#define COVERS(a, b)	(hx[a] >= hx[b] && hy[a] >= hy[b] && hg[a] >= hg[b])
#define BEATS(b, a)	(COVERS(b, a) && (!COVERS(a, b) || (b) < (a)))
#define NAMED(x, y)	(need[x] | ((y) == 0 -> 1 : 0))

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
#define KEPT(c, x, y)	((c) & ~NAMED(x, y))	/* a pack in use leaves the list */
#else
#define KEPT(c, x, y)	(c)
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
	st[k] = FLIGHT; hx[k] = x; hy[k] = y; hg[k] = g; hc[k] = KEPT(c, x, y)
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
		assert(spare < P);
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
	byte dot, want = 3, spare = 2, bad, my, known;

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
	atomic { rep = want; assert((rep & ~present) == 0) }
}

proctype Y()
{
	short m;
	byte jx, jy, jg, jc, nl, my;
	atomic { d_step { list_heads(m) } }
	d_step { read_heads(m, jx, jy, jg, jc, nl) }
	d_step { send(my, jx, 1, jg, jc); jx = 0; jy = 0; jg = 0; jc = 0; nl = 0; my = 0 }
}

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
		d_step { read_heads(m, jx, jy, jg, jc, nl); dead = present & ~NAMED(jx, jy) & ~jc }
		if
		:: dead ->
#ifdef M_ONE_STEP
			goto delete;
#endif
			d_step { send(my, jx, jy, n, (jc & present) | dead) }
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
		:: nl == 1 -> dead = known & jc & present & ~NAMED(jx, jy)
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
		od
	:: n == ROUNDS -> break
	od
}

init { atomic { st[0] = WHOLE; run server(); run X(); run Y(); run M(); run G() } }
