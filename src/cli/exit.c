#include "cli/exit.h"

#include "foliofs/error.h"

enum nf_exit nf_exit_of(int code)
{
	switch (-code) {
	case 0: return NF_EXIT_OK;
	case NF_E_OPTION:
	case NF_E_STORE_URL: return NF_EXIT_USAGE;
	case NF_E_KEY_CHANGED:
	case NF_E_KEY_WRONG: return NF_EXIT_KEY;
	case NF_E_STORE_DENIED: return NF_EXIT_DENIED;
	case NF_E_OFFLINE:
	case NF_E_TIMEOUT:
	case NF_E_STORE_TLS: return NF_EXIT_OFFLINE;
	/* The second is what a web server says of something else. */
	case NF_E_STORE_NOT_DAV:
	case NF_E_STORE_PROTOCOL: return NF_EXIT_NOT_DAV;
	case NF_E_HEADER_LOST:
	case NF_E_HEADER_MISSING: return NF_EXIT_NO_VAULT;
	case NF_E_HEADER_FOREIGN:
	case NF_E_HEADER_ROLLBACK:
	case NF_E_HEAD_ROLLBACK: return NF_EXIT_FOREIGN;
	case EBUSY:
	case NF_E_CACHE_LOCKED: return NF_EXIT_BUSY;
	case ENOSPC:
	case NF_E_FULL:
	case NF_E_STORE_FULL: return NF_EXIT_FULL;
	case NF_E_FORMAT_BAD:
	case NF_E_FORMAT_UNKNOWN:
	case NF_E_XFORM_BAD_TAG:
	case NF_E_XFORM_TRUNCATED:
	case NF_E_XFORM_DECOMPRESS:
	case NF_E_KEY_EPOCH_UNKNOWN:
	case NF_E_TREE_BAD:
	case NF_E_PACK_MISSING:
	case NF_E_JOURNAL_BAD:
	case NF_E_STATE_BAD: return NF_EXIT_DAMAGED;
	default: return NF_EXIT_ERROR;
	}
}

enum nf_exit nf_exit_of_stage(int code, enum nf_daemon_stage stage)
{
	enum nf_exit e = nf_exit_of(code);

	if (code && stage == NF_STAGE_MOUNT)
		return e == NF_EXIT_BUSY ? e : NF_EXIT_MOUNT;
	if ((stage == NF_STAGE_STORE || stage == NF_STAGE_HEADER) &&
	    (code == -ENOENT || code == -NF_E_STORE_NOT_FOUND || code == -ENOTDIR))
		return NF_EXIT_NO_VAULT;
	return e;
}
