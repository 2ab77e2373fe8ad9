/* commit.pml - the commit protocol of a vault: heads with write-once names, looking,
 * committing, merging, pruning.  The rules are in docs/internals/protocol.md; R numbers
 * here are those.
 *
 *   writer:  LOOK -> PLAN -> FREEZE -> SEND -> WAIT -> LOOK ... -> done
 *   name:    FREE -> FLIGHT -> TORN -> WHOLE -> GONE (pruned)
 *                       |        |
 *                       +-> GONE +-> LEFT (cut off for ever)
 *
 * A name's number is its tag.  Names are taken from the lowest or the highest free
 * number, so that a later head may have a smaller or a greater tag than an earlier one.
 * A vector is two bits for each writer: its last writer seq contained.  `ops` is the tree:
 * K bits for each writer, one for every operation (of a user) that it contains.
 *
 * Scope: N writers, K operations each, F faults of network and server, C crashes, at
 * most H names in all.  Running out of names is an error: that is how an endless
 * series of merges shows.
 */
#ifndef N
#define N 2
#endif
#ifndef K
#define K 2
#endif
#ifndef F
#define F 1
#endif
#ifndef C
#define C 1
#endif
#ifndef H
#define H 8
#endif

#if defined(PRUNE) || defined(SPLIT)
#define SLOW		/* listing and reading are two steps */
#endif

#define FREE	0
#define FLIGHT	1	/* sent, nothing to be seen yet */
#define TORN	2	/* listed, does not authenticate (yet) */
#define WHOLE	3
#define GONE	4	/* never took effect, or deleted; the name is not used again */
#define LEFT	5	/* cut off, stays so */

#define GET(v, w)	(((v) >> (2 * (w))) & 3)
#define PUT_(v, w, n)	(((v) & ~(3 << (2 * (w)))) | ((n) << (2 * (w))))
#if N == 2
#define COVERS(a, b)	(GET(a, 0) >= GET(b, 0) && GET(a, 1) >= GET(b, 1))
#else
#define COVERS(a, b)	(GET(a, 0) >= GET(b, 0) && GET(a, 1) >= GET(b, 1) && GET(a, 2) >= GET(b, 2))
#endif
#define MINE		((1 << K) - 1)			/* all operations of one writer, unshifted */
#define OPS(o, w)	(((o) >> ((w) * K)) & MINE)
#define ALL		((1 << (N * K)) - 1)

/* b beats a: a is no leaf when b is listed.  R3, R4 */
#if defined(M_NO_TIE)
#define BEATS(b, a)	(COVERS(vec[b], vec[a]) && !COVERS(vec[a], vec[b]))
#else
#define BEATS(b, a)	(COVERS(vec[b], vec[a]) && (!COVERS(vec[a], vec[b]) || (b) < (a)))
#endif

byte st[H], vec[H], ops[H];
#ifdef W_ORDER
int ord[H];			/* the dots in the order they were applied, 3 bits each */
byte hseq[H];
#endif
byte faults = F, crashes = C;
byte finished;			/* writers that ended */
byte reported;			/* ghost: operations some user was told are durable */
#ifdef SPLIT
short begun[N];			/* ghost: heads whole when this writer's listing began; -1 none runs */
#endif

hidden byte i, j, u, gv, go, gn;
hidden byte lost;
#ifdef W_ORDER
hidden byte base, top;		/* of the last merge: the leaf of highest seq, that seq */
#endif

#define IN(m, k)	(((m) >> (k)) & 1)

/* The leaves among the heads in `seen`, and what merging them gives. */
inline merge_leaves(seen, jv, jo, nl)
{
	jv = 0; jo = 0; nl = 0;
#ifdef W_ORDER
	base = 255; top = 0;
#endif
	for (i : 0 .. H - 1) {
		if
		:: IN(seen, i) && st[i] == WHOLE ->
			lost = 0;
			for (j : 0 .. H - 1) {
				if
				:: j != i && IN(seen, j) && st[j] == WHOLE && BEATS(j, i) -> lost = 1; break
				:: else
				fi
			}
			if
			:: !lost ->
				nl++;
#ifdef W_ORDER
				if
				:: base == 255 || hseq[i] > top -> base = i; top = hseq[i]
				:: else
				fi;
#endif
				for (u : 0 .. N - 1) {
					if
					:: GET(vec[i], u) > GET(jv, u) ->
						/* a further dot brings something further: nothing applied twice */
						assert(OPS(ops[i], u) != OPS(jo, u));
						jv = PUT_(jv, u, GET(vec[i], u));
						jo = jo | (OPS(ops[i], u) << (u * K))
					:: else
					fi
				}
			:: else
			fi
		:: else
		fi
	}
	i = 0; j = 0; u = 0; lost = 0
}

inline listed(m)
{
	m = 0;
	for (i : 0 .. H - 1) {
		if
		:: st[i] == TORN || st[i] == WHOLE || st[i] == LEFT -> m = m | (1 << i)
		:: else
		fi
	}
	i = 0
}

/* What must hold whenever the store or what was reported has changed. */
inline check()
{
	merge_leaves(65535, gv, go, gn);
	assert((go & reported) == reported);		/* nothing reported is ever lost */
	assert(finished < N || (gn == 1 && go == ALL));	/* all end on one leaf with everything */
#ifdef STRICT
	for (i : 0 .. H - 1) {				/* a dot has one content, whoever carries it */
		for (j : 0 .. H - 1) {
			if
			:: st[i] == WHOLE && st[j] == WHOLE ->
				for (u : 0 .. N - 1) {
					assert(GET(vec[i], u) != GET(vec[j], u) || OPS(ops[i], u) == OPS(ops[j], u));
					assert(GET(vec[i], u) > GET(vec[j], u) || (OPS(ops[i], u) & ~OPS(ops[j], u)) == 0)
				}
			:: else
			fi
		}
	}
#endif
#ifdef W_ORDER
	for (i : 0 .. H - 1) {				/* expected to fail: see R4 */
		for (j : 0 .. H - 1) {
			assert(st[i] != WHOLE || st[j] != WHOLE || vec[i] != vec[j] || ord[i] == ord[j])
		}
	}
#endif
	i = 0; j = 0; u = 0; gv = 0; go = 0; gn = 0
}

inline wipe(k)
{
	vec[k] = 0; ops[k] = 0;
#ifdef W_ORDER
	ord[k] = 0; hseq[k] = 0
#endif
}

/* The server: a request takes effect at any time, also after its client gave up; it
 * may never take effect, or be cut off.  A half-written file can be seen. */
#define SERVE(k)									\
	:: atomic { st[k] == FLIGHT -> st[k] = TORN }					\
	:: atomic { st[k] == FLIGHT && faults > 0 -> faults--; st[k] = GONE; wipe(k) }	\
	:: atomic { st[k] == TORN && faults > 0 -> faults--; st[k] = LEFT; wipe(k) }	\
	:: d_step { st[k] == TORN -> st[k] = WHOLE; check() }

active proctype server()
{
end:	do
	SERVE(0) SERVE(1) SERVE(2) SERVE(3)
#if H > 4
	SERVE(4)
#endif
#if H > 5
	SERVE(5)
#endif
#if H > 6
	SERVE(6)
#endif
#if H > 7
	SERVE(7)
#endif
#if H > 8
	SERVE(8)
#endif
#if H > 9
	SERVE(9)
#endif
	od
}

#if defined(PRUNE)
/* Anybody prunes: two clients decide on what a look showed and delete later.  R13, R14 */
#if defined(M_PRUNE_EQUAL)
#define COVERED(b, a)	(COVERS(vec[b], vec[a]))
#elif defined(M_PRUNE_BY_SEQ)
#define TOTAL(v)	(GET(v, 0) + GET(v, 1))
#define COVERED(b, a)	(TOTAL(vec[b]) > TOTAL(vec[a]))
#else
#define COVERED(b, a)	BEATS(b, a)
#endif

#if defined(SPLIT) && !defined(M_PRUNE_YOUNG)
/* The covering head is older than any listing that still runs. */
#define OLD(b)	((begun[0] == -1 || IN(begun[0], b)) && (begun[1] == -1 || IN(begun[1], b)))
#else
#define OLD(b)	1
#endif

#define CB(b, a)	(b != a && st[b] == WHOLE && COVERED(b, a) && OLD(b))
#if H == 6
#define ANY(a)	(CB(0, a) || CB(1, a) || CB(2, a) || CB(3, a) || CB(4, a) || CB(5, a))
#elif H == 7
#define ANY(a)	(CB(0, a) || CB(1, a) || CB(2, a) || CB(3, a) || CB(4, a) || CB(5, a) || CB(6, a))
#elif H == 8
#define ANY(a)	(CB(0, a) || CB(1, a) || CB(2, a) || CB(3, a) || CB(4, a) || CB(5, a) || CB(6, a) || CB(7, a))
#endif
#define PRUNE1(k)									\
	:: atomic { !IN(plan, k) && st[k] == WHOLE && ANY(k) -> plan = plan | (1 << k) }	\
	:: d_step { IN(plan, k) -> plan = plan & ~(1 << k); st[k] = GONE; wipe(k); check() }

active proctype pruners()
{
	short plan = 0;
end:	do
	PRUNE1(0) PRUNE1(1) PRUNE1(2) PRUNE1(3) PRUNE1(4) PRUNE1(5)
#if H > 6
	PRUNE1(6)
#endif
#if H > 7
	PRUNE1(7)
#endif
	od
}
#endif

#ifdef M_REPORT_UNMERGED
#define ONE(n)	1
#else
#define ONE(n)	((n) == 1)
#endif
#ifdef M_FIRST_LOOK
#define SURE	1
#else
#define SURE	sure
#endif

inline take_name(k)
{
	k = 255;
	for (i : 0 .. H - 1) {
		if
		:: k == 255 && st[i] == FREE -> k = i
		:: else
		fi
	}
	i = 0;
	assert(k != 255)	/* out of names: the merging does not end */
}

inline take_last_name(k)
{
	k = 255;
	for (i : 0 .. H - 1) {
		if
		:: st[i] == FREE -> k = i
		:: else
		fi
	}
	i = 0;
	assert(k != 255)
}

proctype writer(byte w)
{
	/* durable */
	byte seen;		/* the remembered vector */
	byte dot;		/* seq of the last dot that was frozen */
	byte frozen;		/* its operations; 0: it is known to be contained */
	byte inside;		/* operations of ours known to be contained */
	/* volatile */
	byte jv, jo, nl;	/* the view of the last look */
	short list;
	bit sure;
	byte my;
#ifdef W_ORDER
	int jord;
	byte jseq;
#endif
#ifdef M_FREEZE_AFTER
	bit fresh;		/* chosen, not on disk yet */
#endif
#ifdef M_TORN_IS_BAD
	short bad;
#endif

look:
	/* ---- one listing ---- */
#ifdef SPLIT
	atomic { list = 0; d_step {
		begun[w] = 0;
		for (i : 0 .. H - 1) {
			if
			:: st[i] == WHOLE -> begun[w] = begun[w] | (1 << i)
			:: else
			fi
		}
		listed(list);
		list = list & ((1 << (H / 2)) - 1)
	} }
	d_step {
		for (i : H / 2 .. H - 1) {
			if
			:: st[i] == TORN || st[i] == WHOLE || st[i] == LEFT -> list = list | (1 << i)
			:: else
			fi
		}
		i = 0;
		begun[w] = -1
	}
#elif defined(SLOW)
	atomic { list = 0; d_step { listed(list) } }
#endif
	/* ---- reading what was listed, and judging it ---- */
	atomic {
#ifndef SLOW
		list = 0;
		d_step { listed(list) }
#endif
#if defined(PRUNE) && !defined(M_NO_RELIST)
		lost = 0;
		for (i : 0 .. H - 1) {
			if
			:: IN(list, i) && st[i] == GONE -> lost = 1
			:: else
			fi
		}
		i = 0;
		if
		:: lost -> lost = 0; list = 0; goto look
		:: else
		fi;
#endif
		d_step {
#ifdef M_TORN_IS_BAD
			for (i : 0 .. H - 1) {
				if
				:: IN(list, i) && (st[i] == TORN || st[i] == LEFT) -> bad = bad | (1 << i)
				:: else
				fi
			}
			list = list & ~bad;
#endif
			merge_leaves(list, jv, jo, nl);
			list = 0;
#ifdef W_ORDER
			jord = 0; jseq = top;
			if
			:: base != 255 ->
				jord = ord[base];
				for (u : 0 .. N - 1) {
					for (i : GET(vec[base], u) + 1 .. GET(jv, u)) { jord = jord * 8 + u * K + i }
				}
			:: else
			fi;
			i = 0; u = 0;
#endif
			sure = GET(seen, w) >= dot;	/* R9: contained already when this listing began */
			assert(COVERS(jv, seen));	/* else: a rollback, by an honest store */
			seen = jv;
			if
			:: frozen && GET(jv, w) >= dot -> inside = inside | frozen; frozen = 0
			:: else
			fi;
			if
			:: !frozen && SURE && ONE(nl) -> reported = reported | (inside << (w * K)); check()
			:: else
			fi
		}
		if
		:: !frozen && inside == MINE && SURE && ONE(nl) -> goto done
		:: !frozen && inside == MINE && !SURE && nl == 1 -> jv = 0; jo = 0; nl = 0; goto look
		:: else
		fi;
		sure = 0;
		if
		:: crashes > 0 -> crashes--; jv = 0; jo = 0; nl = 0; goto look
		:: frozen || inside != MINE || nl > 1
		fi
	}
	/* ---- freezing the delta, durably, before it is sent ---- */
	atomic {
		if
		:: !frozen && inside != MINE ->
			dot++;
#ifdef M_FREEZE_AFTER
			fresh = 1;
#endif
			if
			:: frozen = (inside == 0 -> 1 : (inside == 1 -> 2 : 4))
			:: frozen = MINE & ~inside
			fi
#ifdef M_AMEND
		:: frozen && (frozen | inside) != MINE -> frozen = MINE & ~inside
#endif
#ifdef M_RETRY_AS_NEXT
		:: frozen && dot < 3 -> dot++
#endif
#ifdef M_BUILD_UNCONFIRMED
		:: frozen && (frozen | inside) != MINE && dot < 3 ->
			dot++; inside = inside | frozen; frozen = (inside == 1 -> 2 : 4)
#endif
#ifdef TOGETHER
		:: frozen && (frozen | inside) != MINE && dot < 3 ->
			dot++; frozen = MINE & ~inside
#endif
		:: frozen
		:: !frozen && inside == MINE
		fi;
		if
#ifndef M_FREEZE_AFTER
		:: crashes > 0 -> crashes--; jv = 0; jo = 0; nl = 0; goto look
#endif
		:: skip
		fi
	}
	/* ---- sending the head ---- */
	atomic {
		if
		:: d_step { take_name(my) }
		:: d_step { take_last_name(my) }
		fi;
		d_step {
			vec[my] = jv; ops[my] = jo;
			if
			:: frozen ->
				assert((OPS(jo, w) & frozen) == 0);	/* no operation is applied twice */
				vec[my] = PUT_(jv, w, dot);
				ops[my] = jo | (frozen << (w * K))
			:: else
			fi;
#ifdef W_ORDER
			ord[my] = (frozen -> jord * 8 + w * K + dot : jord); hseq[my] = jseq + 1;
			jord = 0; jseq = 0;
#endif
			st[my] = FLIGHT;
#ifdef M_REMEMBER_SENT
			seen = vec[my];
#endif
			jv = 0; jo = 0; nl = 0
		}
	}
	/* ---- waiting for the answer; it may be lost, and proves nothing ---- */
	atomic {
		if
		:: st[my] == WHOLE || st[my] == GONE || st[my] == LEFT
#ifdef M_REPORT_EARLY
			-> d_step { reported = reported | ((frozen | inside) << (w * K)); check() }
#endif
		:: faults > 0 -> faults--
#ifdef M_FREEZE_AFTER
		:: crashes > 0 && fresh -> crashes--; frozen = 0; dot--
#else
		:: crashes > 0 -> crashes--
#endif
		fi;
#ifdef M_FREEZE_AFTER
		fresh = 0;
#endif
		my = 0
	}
	goto look;
done:
	atomic { finished++; d_step { check() } }
}

init {
	atomic {
#ifdef SPLIT
		for (i : 0 .. N - 1) { begun[i] = -1 }
		i = 0;
#endif
		run writer(0);
		run writer(1);
#if N > 2
		run writer(2)
#endif
	}
}
