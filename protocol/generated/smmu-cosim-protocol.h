/*
 * The wire between QEMU and the smmu-cosim server
 *
 * Generated from protocol/messages.ts of smmu-cosim; do not edit. What the
 * messages mean is said in protocol/README.md there.
 *
 * A frame is a little-endian uint32_t length and a payload of that many bytes:
 * one msgpack array [id, seq, fields...]. To receive: cosim_parse,
 * cosim_unpack_head, then the cosim_unpack function of that id; each returns
 * false and fills a CosimError, ready to be sent, when the peer broke the
 * protocol. Strings and bytes point to memory that the struct does not own;
 * when sending they must respect the limits below.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_ARM_SMMU_COSIM_PROTOCOL_H
#define HW_ARM_SMMU_COSIM_PROTOCOL_H

#include <msgpack.h>

/* Protocol versions that this header speaks */
#define COSIM_VERSION_MIN 1
#define COSIM_VERSION_MAX 1

/* Limits, in bytes but for those of a list, of a call stack and of a u53 */
#define COSIM_MAX_FRAME 1048576
#define COSIM_MAX_BYTES 1048512
#define COSIM_MAX_CHECKPOINT 524288
#define COSIM_MAX_STRING 4096
#define COSIM_MAX_LIST 65536
#define COSIM_MAX_FRAMES 64
#define COSIM_TOKEN_BYTES 32
#define COSIM_MAX_U53 ((UINT64_C(1) << 53) - 1)

/* Most elements of any message */
#define COSIM_MAX_ARITY 21

/* status */
enum {
    /* completed */
    COSIM_STATUS_OK = 0,
    /*
     * external abort (trap), or refused by the hardware model (hwRead, hwWrite)
     */
    COSIM_STATUS_ABORTED = 1,
    /* address range is not RAM, or not within the limits */
    COSIM_STATUS_RANGE = 2,
    /* known message, but this machine cannot do it */
    COSIM_STATUS_UNSUPPORTED = 3,
};

/* resetCause */
enum {
    /* first reset, before any vCPU runs */
    COSIM_RESET_CAUSE_COLD = 0,
    /* the guest asked for it (reboot) */
    COSIM_RESET_CAUSE_GUEST = 1,
    /* asked for from outside (QMP) */
    COSIM_RESET_CAUSE_HOST = 2,
};

/* shutdownCause */
enum {
    /* the guest powered off */
    COSIM_SHUTDOWN_CAUSE_GUEST = 0,
    /* the guest panicked */
    COSIM_SHUTDOWN_CAUSE_PANIC = 1,
    /* asked for from outside: QMP, a signal, or quit */
    COSIM_SHUTDOWN_CAUSE_HOST = 2,
    /* QEMU gave up */
    COSIM_SHUTDOWN_CAUSE_ERROR = 3,
};

/* irqLine */
enum {
    /* event queue */
    COSIM_IRQ_LINE_EVTQ = 0,
    /* PRI queue */
    COSIM_IRQ_LINE_PRIQ = 1,
    /* CMD_SYNC completion */
    COSIM_IRQ_LINE_CMD_SYNC = 2,
    /* global error */
    COSIM_IRQ_LINE_GERROR = 3,
};

/* access */
enum {
    /* bit 0: write, else read */
    COSIM_ACCESS_WRITE = 1,
    /* bit 1: instruction fetch */
    COSIM_ACCESS_EXEC = 2,
    /* bit 2: privileged */
    COSIM_ACCESS_PRIVILEGED = 4,
    /* bit 3: SubstreamID is valid */
    COSIM_ACCESS_SSID_VALID = 8,
};

/* translateMode */
enum {
    /* the model walks the tables itself */
    COSIM_TRANSLATE_MODE_HARDWARE = 0,
    /* every IOTLB miss is a translate request */
    COSIM_TRANSLATE_MODE_SERVER = 1,
    /* both; the model's answer is in the request and is the one used */
    COSIM_TRANSLATE_MODE_LOCKSTEP = 2,
};

/* translation */
enum {
    /* pa, addressMask and permissions hold the result */
    COSIM_TRANSLATION_MAPPED = 0,
    /* record holds the event; the access is aborted and the event recorded */
    COSIM_TRANSLATION_FAULT = 1,
    /* the access is aborted and no event is recorded */
    COSIM_TRANSLATION_SILENT = 2,
    /* the address is passed on unchanged and not cached */
    COSIM_TRANSLATION_BYPASS = 3,
};

/* invalidateScope */
enum {
    /* every IOTLB entry and every cached configuration */
    COSIM_INVALIDATE_SCOPE_ALL = 0,
    /* every IOTLB entry */
    COSIM_INVALIDATE_SCOPE_IOTLB = 1,
    /* cached configuration and IOTLB entries of one StreamID */
    COSIM_INVALIDATE_SCOPE_SID = 2,
};

/* permission */
enum {
    /* bit 0 */
    COSIM_PERMISSION_READ = 1,
    /* bit 1 */
    COSIM_PERMISSION_WRITE = 2,
};

/* feature */
enum {
    /* bit 0: traps carry the guest PC */
    COSIM_FEATURE_GUEST_PC = 1,
    /* bit 1: guardAdd and guardRemove work (CPU view of memory) */
    COSIM_FEATURE_GUARD = 2,
    /* bit 2: translate requests can be switched on */
    COSIM_FEATURE_TRANSLATE = 4,
    /* bit 3: hwPost, predictedRead and postMismatch work */
    COSIM_FEATURE_POSTED_WRITES = 8,
    /*
     * bit 4: stage2Changed, watch and sysReg work: the vCPUs have an EL2 whose
     * tables can be followed
     */
    COSIM_FEATURE_STAGE2 = 16,
    /*
     * bit 5: ringOpen works: the socket can pass a descriptor, and frames can
     * travel in shared memory
     */
    COSIM_FEATURE_RING = 32,
    /*
     * bit 6: QEMU was given a token: it takes no server that does not prove
     * that it knows it
     */
    COSIM_FEATURE_TOKEN = 64,
    /* bit 7: park and callStack work */
    COSIM_FEATURE_DEBUG = 128,
    /*
     * bit 8: stage2Changed comes at TLBI instructions as well, if the server
     * uses this
     */
    COSIM_FEATURE_STAGE2_TLBI = 256,
};

/* sysReg */
enum {
    /*
     * VTTBR_EL2 as EL2 last had it for its host; 0: EL2 keeps no stage 2 for a
     * host
     */
    COSIM_SYS_REG_HOST_VTTBR = 0,
    /* VTCR_EL2 at that moment */
    COSIM_SYS_REG_HOST_VTCR = 1,
    /* VTTBR_EL2 now */
    COSIM_SYS_REG_VTTBR = 2,
    /* VTCR_EL2 now */
    COSIM_SYS_REG_VTCR = 3,
    /* HCR_EL2 now */
    COSIM_SYS_REG_HCR = 4,
    /* the exception level, 0 to 3 */
    COSIM_SYS_REG_CURRENT_EL = 5,
};

/* error */
enum {
    /* frame length is 0 or above MAX_FRAME */
    COSIM_ERROR_FRAME = 1,
    /* the payload is not exactly one msgpack array */
    COSIM_ERROR_MSGPACK = 2,
    /* unknown message, or one that this end does not take */
    COSIM_ERROR_TYPE = 3,
    /* wrong number of elements */
    COSIM_ERROR_ARITY = 4,
    /* an element has the wrong type or is out of range */
    COSIM_ERROR_VALUE = 5,
    /* unexpected sequence number */
    COSIM_ERROR_SEQUENCE = 6,
    /* known message at a time when it is not allowed */
    COSIM_ERROR_STATE = 7,
    /* no common protocol version */
    COSIM_ERROR_VERSION = 8,
    /*
     * a counter of the ring is out of range, or a byte on the socket beside it
     * is no doorbell
     */
    COSIM_ERROR_RING = 9,
    /* no proof that the peer knows the token */
    COSIM_ERROR_TOKEN = 10,
};

enum {
    COSIM_MSG_HELLO = 1,
    COSIM_MSG_TRAP_READ = 2,
    COSIM_MSG_TRAP_WRITE = 3,
    COSIM_MSG_TRANSLATE = 4,
    COSIM_MSG_EVENT = 5,
    COSIM_MSG_GERROR = 6,
    COSIM_MSG_RESET = 7,
    COSIM_MSG_GUARD_FAULT = 8,
    COSIM_MSG_SHUTDOWN = 9,
    COSIM_MSG_DONE = 10,
    COSIM_MSG_DATA = 11,
    COSIM_MSG_PREDICTED_READ = 12,
    COSIM_MSG_POST_MISMATCH = 13,
    COSIM_MSG_STAGE2_CHANGED = 14,
    COSIM_MSG_PROOF = 15,
    COSIM_MSG_ERROR = 31,
    COSIM_MSG_WELCOME = 32,
    COSIM_MSG_REFUSE = 33,
    COSIM_MSG_REPLY = 34,
    COSIM_MSG_TRANSLATED = 35,
    COSIM_MSG_HOLD = 36,
    COSIM_MSG_HW_READ = 37,
    COSIM_MSG_HW_WRITE = 38,
    COSIM_MSG_MEM_READ = 39,
    COSIM_MSG_MEM_WRITE = 40,
    COSIM_MSG_IRQ = 41,
    COSIM_MSG_INVALIDATE = 42,
    COSIM_MSG_GUARD_ADD = 43,
    COSIM_MSG_GUARD_REMOVE = 44,
    COSIM_MSG_TRANSLATE_MODE = 45,
    COSIM_MSG_CHECKPOINT = 46,
    COSIM_MSG_PAUSE = 47,
    COSIM_MSG_RESUME = 48,
    COSIM_MSG_QUIT = 49,
    COSIM_MSG_HW_POST = 50,
    COSIM_MSG_WATCH = 51,
    COSIM_MSG_SYS_REG = 52,
    COSIM_MSG_RING_OPEN = 53,
    COSIM_MSG_CHALLENGE = 54,
    COSIM_MSG_CONFIRM = 55,
    COSIM_MSG_PARK = 56,
    COSIM_MSG_CALL_STACK = 57,
};

/* Name of a message for people, "?" for an unknown id */
static inline const char *cosim_message_name(uint32_t id)
{
    switch (id) {
    case COSIM_MSG_HELLO:
        return "hello";
    case COSIM_MSG_TRAP_READ:
        return "trapRead";
    case COSIM_MSG_TRAP_WRITE:
        return "trapWrite";
    case COSIM_MSG_TRANSLATE:
        return "translate";
    case COSIM_MSG_EVENT:
        return "event";
    case COSIM_MSG_GERROR:
        return "gerror";
    case COSIM_MSG_RESET:
        return "reset";
    case COSIM_MSG_GUARD_FAULT:
        return "guardFault";
    case COSIM_MSG_SHUTDOWN:
        return "shutdown";
    case COSIM_MSG_DONE:
        return "done";
    case COSIM_MSG_DATA:
        return "data";
    case COSIM_MSG_PREDICTED_READ:
        return "predictedRead";
    case COSIM_MSG_POST_MISMATCH:
        return "postMismatch";
    case COSIM_MSG_STAGE2_CHANGED:
        return "stage2Changed";
    case COSIM_MSG_PROOF:
        return "proof";
    case COSIM_MSG_ERROR:
        return "error";
    case COSIM_MSG_WELCOME:
        return "welcome";
    case COSIM_MSG_REFUSE:
        return "refuse";
    case COSIM_MSG_REPLY:
        return "reply";
    case COSIM_MSG_TRANSLATED:
        return "translated";
    case COSIM_MSG_HOLD:
        return "hold";
    case COSIM_MSG_HW_READ:
        return "hwRead";
    case COSIM_MSG_HW_WRITE:
        return "hwWrite";
    case COSIM_MSG_MEM_READ:
        return "memRead";
    case COSIM_MSG_MEM_WRITE:
        return "memWrite";
    case COSIM_MSG_IRQ:
        return "irq";
    case COSIM_MSG_INVALIDATE:
        return "invalidate";
    case COSIM_MSG_GUARD_ADD:
        return "guardAdd";
    case COSIM_MSG_GUARD_REMOVE:
        return "guardRemove";
    case COSIM_MSG_TRANSLATE_MODE:
        return "translateMode";
    case COSIM_MSG_CHECKPOINT:
        return "checkpoint";
    case COSIM_MSG_PAUSE:
        return "pause";
    case COSIM_MSG_RESUME:
        return "resume";
    case COSIM_MSG_QUIT:
        return "quit";
    case COSIM_MSG_HW_POST:
        return "hwPost";
    case COSIM_MSG_WATCH:
        return "watch";
    case COSIM_MSG_SYS_REG:
        return "sysReg";
    case COSIM_MSG_RING_OPEN:
        return "ringOpen";
    case COSIM_MSG_CHALLENGE:
        return "challenge";
    case COSIM_MSG_CONFIRM:
        return "confirm";
    case COSIM_MSG_PARK:
        return "park";
    case COSIM_MSG_CALL_STACK:
        return "callStack";
    default:
        return "?";
    }
}

/* Whether QEMU takes this message */
static inline bool cosim_message_taken(uint32_t id)
{
    switch (id) {
    case COSIM_MSG_ERROR:
    case COSIM_MSG_WELCOME:
    case COSIM_MSG_REFUSE:
    case COSIM_MSG_REPLY:
    case COSIM_MSG_TRANSLATED:
    case COSIM_MSG_HOLD:
    case COSIM_MSG_HW_READ:
    case COSIM_MSG_HW_WRITE:
    case COSIM_MSG_MEM_READ:
    case COSIM_MSG_MEM_WRITE:
    case COSIM_MSG_IRQ:
    case COSIM_MSG_INVALIDATE:
    case COSIM_MSG_GUARD_ADD:
    case COSIM_MSG_GUARD_REMOVE:
    case COSIM_MSG_TRANSLATE_MODE:
    case COSIM_MSG_CHECKPOINT:
    case COSIM_MSG_PAUSE:
    case COSIM_MSG_RESUME:
    case COSIM_MSG_QUIT:
    case COSIM_MSG_HW_POST:
    case COSIM_MSG_WATCH:
    case COSIM_MSG_SYS_REG:
    case COSIM_MSG_RING_OPEN:
    case COSIM_MSG_CHALLENGE:
    case COSIM_MSG_CONFIRM:
    case COSIM_MSG_PARK:
    case COSIM_MSG_CALL_STACK:
        return true;
    default:
        return false;
    }
}

/* Record ramRange */
typedef struct CosimRamRange {
    /* guest physical address, bytes */
    uint64_t base;
    /* bytes */
    uint64_t size;
    /* file that backs it with share=on; empty when there is none */
    const char *path;
    uint32_t path_len;
    /* offset of base in that file, bytes */
    uint64_t offset;
} CosimRamRange;

/* Record smmu */
typedef struct CosimSmmu {
    /* guest physical address of the register frame */
    uint64_t base;
    /* bytes of the register frame */
    uint64_t size;
    /* GIC SPI number */
    uint32_t irq_evtq;
    /* GIC SPI number */
    uint32_t irq_priq;
    /* GIC SPI number */
    uint32_t irq_cmd_sync;
    /* GIC SPI number */
    uint32_t irq_gerror;
} CosimSmmu;

/* Record device */
typedef struct CosimDevice {
    /* index of the SMMU in front of it */
    uint8_t smmu;
    /* StreamID; 0xffffffff: none yet, its bus has no number */
    uint32_t sid;
    /* id given on the command line, or the PCI address */
    const char *name;
    uint32_t name_len;
    /* QEMU's type name, e.g. virtio-blk-pci */
    const char *model;
    uint32_t model_len;
} CosimDevice;

/*
 * hello (request of QEMU, answered by welcome): First message of a connection.
 * The server may send requests before it answers. Answered by refuse where the
 * peers do not fit.
 */
typedef struct CosimHello {
    /* lowest protocol version that QEMU speaks */
    uint16_t min_version;
    /* highest */
    uint16_t max_version;
    /* bits of feature */
    uint32_t features;
    /* empty on the first connection, else what welcome gave */
    const char *session;
    uint32_t session_len;
    /*
     * 1 when the machine already runs and checkpoint is the last one received
     */
    uint8_t resumed;
    /* seq of the last request of QEMU that was answered; 0 for none */
    uint32_t last_seq;
    /* last checkpoint received in this session; empty when there is none */
    const uint8_t *checkpoint;
    uint32_t checkpoint_len;
    /* QEMU's version */
    const char *qemu_version;
    uint32_t qemu_version_len;
    /* number of vCPUs */
    uint16_t vcpus;
    /* guest physical address of hypervisor memory */
    uint64_t carveout_base;
    /* bytes of hypervisor memory; 0 when there is none */
    uint64_t carveout_size;
    /* RAM, ascending */
    const CosimRamRange *ram;
    uint32_t ram_count;
    /* SMMUs; the position is the SMMU index */
    const CosimSmmu *smmus;
    uint32_t smmus_count;
    /* devices behind an SMMU */
    const CosimDevice *devices;
    uint32_t devices_count;
} CosimHello;

/*
 * trapRead (request of QEMU, answered by reply): The guest reads the register
 * frame.
 */
typedef struct CosimTrapRead {
    /* index of the SMMU */
    uint8_t smmu;
    /* index of the vCPU; 0xffff when no vCPU made the access */
    uint16_t cpu;
    /* byte offset into the register frame, as the CPU made it */
    uint32_t offset;
    /* bytes: 1, 2, 4 or 8 */
    uint8_t size;
    /* virtual clock, ns */
    uint64_t time;
    /* guest PC; 0 when not known */
    uint64_t pc;
    /*
     * round trip of the trap before this one, as QEMU measured it, ns; 0 for
     * the first
     */
    uint32_t last_trap_ns;
} CosimTrapRead;

/*
 * trapWrite (request of QEMU, answered by reply): The guest writes the register
 * frame.
 */
typedef struct CosimTrapWrite {
    /* index of the SMMU */
    uint8_t smmu;
    /* index of the vCPU; 0xffff when no vCPU made the access */
    uint16_t cpu;
    /* byte offset into the register frame, as the CPU made it */
    uint32_t offset;
    /* bytes: 1, 2, 4 or 8 */
    uint8_t size;
    /* virtual clock, ns */
    uint64_t time;
    /* guest PC; 0 when not known */
    uint64_t pc;
    /*
     * round trip of the trap before this one, as QEMU measured it, ns; 0 for
     * the first
     */
    uint32_t last_trap_ns;
    /* value written, zero-extended */
    uint64_t value;
} CosimTrapWrite;

/*
 * translate (request of QEMU, answered by translated): An IOTLB miss in
 * translate mode server or lockstep. In lockstep the model's own answer comes
 * with it.
 */
typedef struct CosimTranslate {
    /* index of the SMMU */
    uint8_t smmu;
    /* StreamID */
    uint32_t sid;
    /* SubstreamID, when bit ssidValid of access is set */
    uint32_t ssid;
    /* input address */
    uint64_t iova;
    /* bits of access */
    uint8_t access;
    /* virtual clock, ns */
    uint64_t time;
    /* lockstep: the model's answer, a value of translation; else 0 */
    uint8_t status;
    /* lockstep: output address */
    uint64_t pa;
    /* lockstep: size of the translation minus 1, bytes */
    uint64_t address_mask;
    /* lockstep: bits of permission */
    uint8_t permissions;
    /* event record, doubleword 0 */
    uint64_t record0;
    /* event record, doubleword 1 */
    uint64_t record1;
    /* event record, doubleword 2 */
    uint64_t record2;
    /* event record, doubleword 3 */
    uint64_t record3;
} CosimTranslate;

/*
 * event (notice of QEMU): The hardware model recorded an event (whether or not
 * the queue had room).
 */
typedef struct CosimEvent {
    /* index of the SMMU */
    uint8_t smmu;
    /* virtual clock, ns */
    uint64_t time;
    /* event record, doubleword 0 */
    uint64_t record0;
    /* event record, doubleword 1 */
    uint64_t record1;
    /* event record, doubleword 2 */
    uint64_t record2;
    /* event record, doubleword 3 */
    uint64_t record3;
} CosimEvent;

/* gerror (notice of QEMU): The hardware model toggled bits of GERROR. */
typedef struct CosimGerror {
    /* index of the SMMU */
    uint8_t smmu;
    /* virtual clock, ns */
    uint64_t time;
    /* GERROR */
    uint32_t gerror;
    /* GERRORN */
    uint32_t gerrorn;
} CosimGerror;

/*
 * reset (request of QEMU, answered by reply): The machine was reset; all
 * devices are in reset state and no vCPU runs until the answer.
 */
typedef struct CosimReset {
    /* a value of resetCause */
    uint8_t cause;
    /* virtual clock, ns */
    uint64_t time;
} CosimReset;

/*
 * guardFault (notice of QEMU): A vCPU touched guarded memory; it got an
 * external abort.
 */
typedef struct CosimGuardFault {
    /* index of the vCPU; 0xffff when no vCPU made the access */
    uint16_t cpu;
    /* guest physical address */
    uint64_t address;
    /* bytes */
    uint8_t size;
    /* 1 for a store, 0 for a load */
    uint8_t write;
    /* virtual clock, ns */
    uint64_t time;
    /* guest PC; 0 when not known */
    uint64_t pc;
} CosimGuardFault;

/* shutdown (notice of QEMU): The machine ends; last message of a connection. */
typedef struct CosimShutdown {
    /* a value of shutdownCause */
    uint8_t cause;
    /* virtual clock, ns */
    uint64_t time;
    /* round trip of the last trap, ns */
    uint32_t last_trap_ns;
} CosimShutdown;

/* done (answer of QEMU): Answers every request of the server but memRead. */
typedef struct CosimDone {
    /* a value of status */
    uint8_t status;
    /* hwRead: the value; else 0 */
    uint64_t value;
} CosimDone;

/* data (answer of QEMU): Answers memRead and callStack. */
typedef struct CosimData {
    /* a value of status */
    uint8_t status;
    /* the bytes; empty unless status is ok */
    const uint8_t *bytes;
    uint32_t bytes_len;
} CosimData;

/*
 * predictedRead (notice of QEMU): The guest read a register that hwPost had
 * given the answer to. Told before anything that the guest did later.
 */
typedef struct CosimPredictedRead {
    /* index of the SMMU */
    uint8_t smmu;
    /* index of the vCPU; 0xffff when no vCPU made the access */
    uint16_t cpu;
    /* byte offset into the register frame */
    uint32_t offset;
    /* virtual clock, ns */
    uint64_t time;
    /* guest PC; 0 when not known */
    uint64_t pc;
    /* what the guest got; the access had 4 bytes */
    uint32_t value;
} CosimPredictedRead;

/*
 * postMismatch (notice of QEMU): A write of hwPost was refused, or did not lead
 * to the value that it was to lead to.
 */
typedef struct CosimPostMismatch {
    /* index of the SMMU */
    uint8_t smmu;
    /* checkOffset of hwPost */
    uint32_t offset;
    /* what the model holds there */
    uint32_t value;
} CosimPostMismatch;

/*
 * stage2Changed (request of QEMU, answered by reply): EL2 has stored to pages
 * of the tables that it keeps for its host, and is about to return to a lower
 * exception level; or, with stage2Tlbi, it has executed a TLBI that invalidates
 * stage 2. The vCPU waits. Other vCPUs may be in EL2, and store to the same
 * pages while this is answered: then the pages are told again.
 */
typedef struct CosimStage2Changed {
    /* index of the vCPU */
    uint16_t cpu;
    /* virtual clock, ns */
    uint64_t time;
    /* VTTBR_EL2 of the host */
    uint64_t vttbr;
    /* VTCR_EL2 */
    uint64_t vtcr;
    /* 1: the tables are new, nothing of them is watched */
    uint8_t all;
    /*
     * watched pages with stores: guest physical addresses, 8 bytes each,
     * little-endian
     */
    const uint8_t *pages;
    uint32_t pages_len;
} CosimStage2Changed;

/* proof (answer of QEMU): Answers challenge. */
typedef struct CosimProof {
    /* TOKEN_BYTES random bytes, another time others */
    const uint8_t *nonce;
    uint32_t nonce_len;
    /* TOKEN_BYTES: that QEMU knows the token */
    const uint8_t *mac;
    uint32_t mac_len;
} CosimProof;

/*
 * error (notice of either end): The peer broke the protocol. The sender closes
 * the connection after it.
 */
typedef struct CosimError {
    /* a value of error */
    uint16_t code;
    /* names the frame and what was expected */
    const char *text;
    uint32_t text_len;
} CosimError;

/* welcome (answer of the server): Answers hello. */
typedef struct CosimWelcome {
    /* the version that both ends use from now on */
    uint16_t version;
    /* bits of feature that the server uses */
    uint32_t features;
    /* to be sent with the next hello of this machine */
    const char *session;
    uint32_t session_len;
} CosimWelcome;

/*
 * refuse (answer of the server): Answers hello: no common version, or a
 * checkpoint that cannot be resumed. QEMU prints the text and exits.
 */
typedef struct CosimRefuse {
    /* lowest protocol version that the server speaks */
    uint16_t min_version;
    /* highest */
    uint16_t max_version;
    /* why, for the person at the terminal */
    const char *text;
    uint32_t text_len;
} CosimRefuse;

/*
 * reply (answer of the server): Answers trapRead, trapWrite, reset and
 * stage2Changed.
 */
typedef struct CosimReply {
    /* ok or aborted of status */
    uint8_t status;
    /* trapRead: the value, truncated to the size of the access */
    uint64_t value;
} CosimReply;

/*
 * translated (answer of the server): Answers translate. In lockstep QEMU uses
 * its own answer and ignores this one but for the seq.
 */
typedef struct CosimTranslated {
    /* a value of translation */
    uint8_t status;
    /* output address for iova */
    uint64_t pa;
    /* size of the translation minus 1, bytes */
    uint64_t address_mask;
    /* bits of permission */
    uint8_t permissions;
    /* event record, doubleword 0 */
    uint64_t record0;
    /* event record, doubleword 1 */
    uint64_t record1;
    /* event record, doubleword 2 */
    uint64_t record2;
    /* event record, doubleword 3 */
    uint64_t record3;
} CosimTranslated;

/*
 * hwRead (request of the server, answered by done): Read a register of the
 * hardware model behind the trap frame.
 */
typedef struct CosimHwRead {
    /* index of the SMMU */
    uint8_t smmu;
    /* byte offset into the register frame */
    uint32_t offset;
    /* bytes: 1, 2, 4 or 8 */
    uint8_t size;
} CosimHwRead;

/*
 * hwWrite (request of the server, answered by done): Write a register of the
 * hardware model. Answered after the model has consumed what the write started.
 */
typedef struct CosimHwWrite {
    /* index of the SMMU */
    uint8_t smmu;
    /* byte offset into the register frame */
    uint32_t offset;
    /* bytes: 1, 2, 4 or 8 */
    uint8_t size;
    /* value */
    uint64_t value;
} CosimHwWrite;

/*
 * memRead (request of the server, answered by data): Read guest memory. Only
 * RAM.
 */
typedef struct CosimMemRead {
    /* guest physical address */
    uint64_t address;
    /* bytes, at most MAX_BYTES */
    uint32_t length;
} CosimMemRead;

/*
 * memWrite (request of the server, answered by done): Write guest memory. Only
 * RAM.
 */
typedef struct CosimMemWrite {
    /* guest physical address */
    uint64_t address;
    /* the bytes, at most MAX_BYTES */
    const uint8_t *bytes;
    uint32_t bytes_len;
} CosimMemWrite;

/*
 * irq (request of the server, answered by done): Pulse an interrupt line of an
 * SMMU.
 */
typedef struct CosimIrq {
    /* index of the SMMU */
    uint8_t smmu;
    /* a value of irqLine */
    uint8_t line;
} CosimIrq;

/*
 * invalidate (request of the server, answered by done): Drop cached
 * translations and configuration of the hardware model.
 */
typedef struct CosimInvalidate {
    /* index of the SMMU */
    uint8_t smmu;
    /* a value of invalidateScope */
    uint8_t scope;
    /* StreamID, for scope sid; else 0 */
    uint32_t sid;
} CosimInvalidate;

/*
 * guardAdd (request of the server, answered by done): From now on every vCPU
 * access to the range is an external abort and a guardFault, whatever part of
 * it was guarded before. Status range: not RAM, or more than 4096 separate
 * ranges.
 */
typedef struct CosimGuardAdd {
    /* guest physical address, a multiple of 4096 */
    uint64_t base;
    /* bytes, a multiple of 4096, not 0 */
    uint64_t size;
} CosimGuardAdd;

/*
 * guardRemove (request of the server, answered by done): No vCPU access to the
 * range is hindered any more, whatever part of it was guarded.
 */
typedef struct CosimGuardRemove {
    /* guest physical address, a multiple of 4096 */
    uint64_t base;
    /* bytes, a multiple of 4096, not 0 */
    uint64_t size;
} CosimGuardRemove;

/*
 * translateMode (request of the server, answered by done): Choose who
 * translates; drops all cached translations.
 */
typedef struct CosimTranslateMode {
    /* index of the SMMU */
    uint8_t smmu;
    /* a value of translateMode */
    uint8_t mode;
} CosimTranslateMode;

/*
 * checkpoint (notice of the server): State to be handed back at the next
 * handshake; replaces the one before. Sent before the answer whose effects it
 * describes.
 */
typedef struct CosimCheckpoint {
    /* opaque to QEMU, at most MAX_CHECKPOINT */
    const uint8_t *bytes;
    uint32_t bytes_len;
} CosimCheckpoint;

/* quit (notice of the server): End QEMU at once with this exit code. */
typedef struct CosimQuit {
    /* exit code */
    uint8_t code;
    /* printed on standard error; may be empty */
    const char *text;
    uint32_t text_len;
} CosimQuit;

/*
 * hwPost (notice of the server): Write 32 bits of the hardware model, without
 * an answer. If the model then holds checkValue at checkOffset, QEMU answers
 * the guest's 32-bit reads there by itself with answer, each told by
 * predictedRead, until the next trap of that SMMU, hwRead, hwWrite or hwPost;
 * if not, postMismatch says so.
 */
typedef struct CosimHwPost {
    /* index of the SMMU */
    uint8_t smmu;
    /* byte offset into the register frame, a multiple of 4 */
    uint32_t offset;
    /* value */
    uint32_t value;
    /* byte offset of the register that follows it, a multiple of 4 */
    uint32_t check_offset;
    /*
     * what the model is to hold there once it has consumed what the write
     * started
     */
    uint32_t check_value;
    /* what the guest is to read there */
    uint32_t answer;
} CosimHwPost;

/*
 * watch (request of the server, answered by done): Stores of vCPUs to a page,
 * from now on, are told by stage2Changed (or no longer). What is read of the
 * page after the answer has all earlier stores in it. Status range: not RAM, or
 * more than 65536 pages. A reset, and the end of a connection, end all
 * watching.
 */
typedef struct CosimWatch {
    /* guest physical address, a multiple of 4096 */
    uint64_t page;
    /* 1: watch, 0: no longer */
    uint8_t on;
} CosimWatch;

/*
 * sysReg (request of the server, answered by done): Read a system register of a
 * vCPU that matters here. Status range: no such vCPU.
 */
typedef struct CosimSysReg {
    /* index of the vCPU */
    uint16_t cpu;
    /* a value of sysReg */
    uint8_t reg;
} CosimSysReg;

/*
 * ringOpen (request of the server, answered by done): Frames of both ends
 * travel in the shared memory whose descriptor comes with the first byte of
 * this frame, from the answer on if that is ok. At most once in a connection.
 * Status range: not exactly one descriptor, or not a sealed file of a size that
 * fits. Status unsupported: not agreed on in the handshake, or it cannot be
 * mapped.
 */
typedef struct CosimRingOpen {
    /* bytes of the file: 4096 and twice the capacity of a ring */
    uint32_t size;
} CosimRingOpen;

/*
 * challenge (request of the server, answered by proof): Prove that you know the
 * token. The first message after hello, where both ends have one; once in a
 * connection.
 */
typedef struct CosimChallenge {
    /* TOKEN_BYTES random bytes, another time others */
    const uint8_t *nonce;
    uint32_t nonce_len;
} CosimChallenge;

/*
 * confirm (notice of the server): The proof was right, and the server knows the
 * token as well. Before it, QEMU serves nothing.
 */
typedef struct CosimConfirm {
    /* TOKEN_BYTES: that the server knows the token */
    const uint8_t *mac;
    uint32_t mac_len;
} CosimConfirm;

/*
 * callStack (request of the server, answered by data): Return addresses of the
 * vCPU that waits for the answer to its trap, 8 bytes each, little-endian, the
 * innermost first: of the frame records that X29 leads to, as far as they are
 * in RAM. Status range: this vCPU does not wait.
 */
typedef struct CosimCallStack {
    /* index of the vCPU */
    uint16_t cpu;
    /* at most so many */
    uint8_t depth;
} CosimCallStack;

/* Sequence number after seq: 1 to UINT32_MAX, then 1 again */
static inline uint32_t cosim_next_seq(uint32_t seq)
{
    return seq == UINT32_MAX ? 1 : seq + 1;
}

static inline void cosim_put_u64(msgpack_packer *pk, uint64_t value)
{
    msgpack_pack_uint32(pk, value >> 32);
    msgpack_pack_uint32(pk, (uint32_t)value);
}

static inline void cosim_put_str(msgpack_packer *pk, const char *str,
                                 uint32_t len)
{
    msgpack_pack_str(pk, len);
    if (len > 0) {
        msgpack_pack_str_body(pk, str, len);
    }
}

static inline void cosim_put_bin(msgpack_packer *pk, const uint8_t *bin,
                                 uint32_t len)
{
    msgpack_pack_bin(pk, len);
    if (len > 0) {
        msgpack_pack_bin_body(pk, bin, len);
    }
}

/* Record what is wrong with a frame; text is a static string */
static inline bool cosim_fail(CosimError *err, uint16_t code, const char *text)
{
    err->code = code;
    err->text = text;
    err->text_len = strlen(text);
    return false;
}

/* Integer of len bytes, most significant first */
static inline uint32_t cosim_big_endian(const uint8_t *p, size_t len)
{
    uint32_t value = 0;

    while (len-- > 0) {
        value = value << 8 | *p++;
    }
    return value;
}

/* Size of the scalar at p; 0 if it is none or not within size bytes */
static inline size_t cosim_scalar_size(const uint8_t *p, size_t size)
{
    /* By first byte from 0xc0: size without body; bytes of the body's length */
    static const uint8_t head[32] = {
        1, 0, 1, 1, 2, 3, 5, 3, 4, 6, 5, 9, 2, 3, 5, 9,
        2, 3, 5, 9, 3, 4, 6, 10, 18, 2, 3, 5, 0, 0, 0, 0,
    };
    static const uint8_t length[32] = {
        [4] = 1, [5] = 2, [6] = 4, [7] = 1, [8] = 2, [9] = 4,
        [25] = 1, [26] = 2, [27] = 4,
    };
    uint8_t first = p[0];
    uint64_t total;

    if (first < 0x80 || first >= 0xe0) {
        return 1;
    } else if (first < 0xa0) {
        return 0;
    } else if (first < 0xc0) {
        total = 1 + (first & 0x1f);
    } else {
        total = head[first - 0xc0];
        if (total > size) {
            return 0;
        }
        total += cosim_big_endian(p + 1, length[first - 0xc0]);
    }
    return total <= size ? total : 0;
}

/*
 * Check that a payload is one msgpack array of scalars. msgpack-c allocates
 * whatever element count a header claims, and follows any nesting, so it sees
 * only what passes here.
 */
static inline bool cosim_check_payload(const uint8_t *p, size_t size,
                                       CosimError *err)
{
    uint32_t count;
    size_t step;

    if (size >= 1 && (p[0] & 0xf0) == 0x90) {
        count = p[0] & 0x0f;
        step = 1;
    } else if (size >= 3 && p[0] == 0xdc) {
        count = cosim_big_endian(p + 1, 2);
        step = 3;
    } else if (size >= 5 && p[0] == 0xdd) {
        count = cosim_big_endian(p + 1, 4);
        step = 5;
    } else {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: expected an array");
    }
    if (count < 2 || count > COSIM_MAX_ARITY) {
        return cosim_fail(err, COSIM_ERROR_ARITY,
                          "payload: no message has that many elements");
    }
    for (uint32_t i = 0; i < count; i++) {
        p += step;
        size -= step;
        if (size == 0) {
            return cosim_fail(err, COSIM_ERROR_MSGPACK,
                              "payload: ends within the array");
        }
        if ((p[0] >= 0x80 && p[0] < 0xa0) || (p[0] >= 0xdc && p[0] < 0xe0)) {
            return cosim_fail(err, COSIM_ERROR_VALUE,
                              "payload: an element is an array or a map");
        }
        if (p[0] >= 0xd0 && p[0] <= 0xd3) {
            return cosim_fail(err, COSIM_ERROR_VALUE,
                              "payload: an element is a signed integer");
        }
        step = cosim_scalar_size(p, size);
        if (step == 0) {
            return cosim_fail(err, COSIM_ERROR_MSGPACK,
                              "payload: an element is invalid or cut off");
        }
    }
    if (size != step) {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: bytes follow the array");
    }
    return true;
}

/*
 * Parse the payload of one frame. o points into payload and zone; clear the
 * zone (msgpack_zone_clear) when the message has been dealt with.
 */
static inline bool cosim_parse(const uint8_t *payload, size_t size,
                               msgpack_zone *zone, msgpack_object *o,
                               CosimError *err)
{
    size_t off = 0;

    if (!cosim_check_payload(payload, size, err)) {
        return false;
    }
    if (msgpack_unpack((const char *)payload, size, &off, zone, o) !=
        MSGPACK_UNPACK_SUCCESS) {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: refused by msgpack-c");
    }
    return true;
}

/* Fields of a message of count elements, after its id and seq */
static inline const msgpack_object *cosim_fields(const msgpack_object *o,
                                                 uint32_t count,
                                                 CosimError *err,
                                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != count) {
        cosim_fail(err, COSIM_ERROR_ARITY, text);
        return NULL;
    }
    return o->via.array.ptr + 2;
}

static inline bool cosim_get_u53(const msgpack_object *o, uint64_t max,
                                 uint64_t *value, CosimError *err,
                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *value = o->via.u64;
    return true;
}

static inline bool cosim_get_u32(const msgpack_object *o, uint32_t max,
                                 uint32_t *value, CosimError *err,
                                 const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

static inline bool cosim_get_u16(const msgpack_object *o, uint16_t max,
                                 uint16_t *value, CosimError *err,
                                 const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

static inline bool cosim_get_u8(const msgpack_object *o, uint8_t max,
                                uint8_t *value, CosimError *err,
                                const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

/* A u64 is two elements, its high and its low 32 bits */
static inline bool cosim_get_u64(const msgpack_object *o, uint64_t *value,
                                 CosimError *err, const char *text)
{
    uint32_t high, low;

    if (!cosim_get_u32(&o[0], UINT32_MAX, &high, err, text) ||
        !cosim_get_u32(&o[1], UINT32_MAX, &low, err, text)) {
        return false;
    }
    *value = (uint64_t)high << 32 | low;
    return true;
}

/* Whether these bytes are UTF-8 (shortest form, no surrogates) without NUL */
static inline bool cosim_is_text(const char *str, uint32_t len)
{
    static const uint32_t least[4] = { 1, 0x80, 0x800, 0x10000 };
    const uint8_t *p = (const uint8_t *)str;
    const uint8_t *end = p + len;

    while (p < end) {
        uint8_t first = *p++;
        uint32_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 :
                        first < 0xf0 ? 2 : 3;
        uint32_t code = more ? first & (0x3f >> more) : first;

        if ((first >= 0x80 && first < 0xc2) || first > 0xf4 ||
            more > end - p) {
            return false;
        }
        for (uint32_t i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80) {
                return false;
            }
            code = code << 6 | (*p & 0x3f);
        }
        if (code < least[more] || (code >= 0xd800 && code < 0xe000) ||
            code > 0x10ffff) {
            return false;
        }
    }
    return true;
}

/* str is not NUL-terminated, and lives as long as the payload */
static inline bool cosim_get_str(const msgpack_object *o, const char **str,
                                 uint32_t *len, CosimError *err,
                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size > COSIM_MAX_STRING ||
        !cosim_is_text(o->via.str.ptr, o->via.str.size)) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *str = o->via.str.ptr;
    *len = o->via.str.size;
    return true;
}

/* bin lives as long as the payload */
static inline bool cosim_get_bin(const msgpack_object *o, uint32_t max,
                                 const uint8_t **bin, uint32_t *len,
                                 CosimError *err, const char *text)
{
    if (o->type != MSGPACK_OBJECT_BIN || o->via.bin.size > max) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *bin = (const uint8_t *)o->via.bin.ptr;
    *len = o->via.bin.size;
    return true;
}

/*
 * Read id and sequence number of a parsed message, and check that QEMU takes
 * it. The unpack function of the message checks the rest.
 */
static inline bool cosim_unpack_head(const msgpack_object *o, uint32_t *id,
                                     uint32_t *seq, CosimError *err)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 2) {
        return cosim_fail(err, COSIM_ERROR_ARITY,
                          "payload: expected an array of at least 2 elements");
    }
    if (!cosim_get_u32(&o->via.array.ptr[0], UINT32_MAX, id, err,
                       "type: expected an integer below 2^32")) {
        return false;
    }
    if (!cosim_message_taken(*id)) {
        return cosim_fail(err, COSIM_ERROR_TYPE,
                          "type: not a message that QEMU takes");
    }
    if (!cosim_get_u32(&o->via.array.ptr[1], UINT32_MAX, seq, err,
                       "seq: expected an integer below 2^32")) {
        return false;
    }
    return *seq != 0 || cosim_fail(err, COSIM_ERROR_VALUE,
                                   "seq: expected an integer above 0");
}

static inline void cosim_pack_hello(msgpack_packer *pk, uint32_t seq,
                                    const CosimHello *m)
{
    msgpack_pack_array(pk, 16);
    msgpack_pack_uint8(pk, COSIM_MSG_HELLO);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint16(pk, m->min_version);
    msgpack_pack_uint16(pk, m->max_version);
    msgpack_pack_uint32(pk, m->features);
    cosim_put_str(pk, m->session, m->session_len);
    msgpack_pack_uint8(pk, m->resumed);
    msgpack_pack_uint32(pk, m->last_seq);
    cosim_put_bin(pk, m->checkpoint, m->checkpoint_len);
    cosim_put_str(pk, m->qemu_version, m->qemu_version_len);
    msgpack_pack_uint16(pk, m->vcpus);
    msgpack_pack_uint64(pk, m->carveout_base);
    msgpack_pack_uint64(pk, m->carveout_size);
    msgpack_pack_array(pk, m->ram_count);
    for (uint32_t i = 0; i < m->ram_count; i++) {
        const CosimRamRange *r = &m->ram[i];

        msgpack_pack_array(pk, 4);
        msgpack_pack_uint64(pk, r->base);
        msgpack_pack_uint64(pk, r->size);
        cosim_put_str(pk, r->path, r->path_len);
        msgpack_pack_uint64(pk, r->offset);
    }
    msgpack_pack_array(pk, m->smmus_count);
    for (uint32_t i = 0; i < m->smmus_count; i++) {
        const CosimSmmu *r = &m->smmus[i];

        msgpack_pack_array(pk, 6);
        msgpack_pack_uint64(pk, r->base);
        msgpack_pack_uint64(pk, r->size);
        msgpack_pack_uint32(pk, r->irq_evtq);
        msgpack_pack_uint32(pk, r->irq_priq);
        msgpack_pack_uint32(pk, r->irq_cmd_sync);
        msgpack_pack_uint32(pk, r->irq_gerror);
    }
    msgpack_pack_array(pk, m->devices_count);
    for (uint32_t i = 0; i < m->devices_count; i++) {
        const CosimDevice *r = &m->devices[i];

        msgpack_pack_array(pk, 4);
        msgpack_pack_uint8(pk, r->smmu);
        msgpack_pack_uint32(pk, r->sid);
        cosim_put_str(pk, r->name, r->name_len);
        cosim_put_str(pk, r->model, r->model_len);
    }
}

static inline void cosim_pack_trap_read(msgpack_packer *pk, uint32_t seq,
                                        const CosimTrapRead *m)
{
    msgpack_pack_array(pk, 10);
    msgpack_pack_uint8(pk, COSIM_MSG_TRAP_READ);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint16(pk, m->cpu);
    msgpack_pack_uint32(pk, m->offset);
    msgpack_pack_uint8(pk, m->size);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->pc);
    msgpack_pack_uint32(pk, m->last_trap_ns);
}

static inline void cosim_pack_trap_write(msgpack_packer *pk, uint32_t seq,
                                         const CosimTrapWrite *m)
{
    msgpack_pack_array(pk, 12);
    msgpack_pack_uint8(pk, COSIM_MSG_TRAP_WRITE);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint16(pk, m->cpu);
    msgpack_pack_uint32(pk, m->offset);
    msgpack_pack_uint8(pk, m->size);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->pc);
    msgpack_pack_uint32(pk, m->last_trap_ns);
    cosim_put_u64(pk, m->value);
}

static inline void cosim_pack_translate(msgpack_packer *pk, uint32_t seq,
                                        const CosimTranslate *m)
{
    msgpack_pack_array(pk, 21);
    msgpack_pack_uint8(pk, COSIM_MSG_TRANSLATE);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint32(pk, m->sid);
    msgpack_pack_uint32(pk, m->ssid);
    cosim_put_u64(pk, m->iova);
    msgpack_pack_uint8(pk, m->access);
    msgpack_pack_uint64(pk, m->time);
    msgpack_pack_uint8(pk, m->status);
    msgpack_pack_uint64(pk, m->pa);
    msgpack_pack_uint64(pk, m->address_mask);
    msgpack_pack_uint8(pk, m->permissions);
    cosim_put_u64(pk, m->record0);
    cosim_put_u64(pk, m->record1);
    cosim_put_u64(pk, m->record2);
    cosim_put_u64(pk, m->record3);
}

static inline void cosim_pack_event(msgpack_packer *pk, uint32_t seq,
                                    const CosimEvent *m)
{
    msgpack_pack_array(pk, 12);
    msgpack_pack_uint8(pk, COSIM_MSG_EVENT);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->record0);
    cosim_put_u64(pk, m->record1);
    cosim_put_u64(pk, m->record2);
    cosim_put_u64(pk, m->record3);
}

static inline void cosim_pack_gerror(msgpack_packer *pk, uint32_t seq,
                                     const CosimGerror *m)
{
    msgpack_pack_array(pk, 6);
    msgpack_pack_uint8(pk, COSIM_MSG_GERROR);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint64(pk, m->time);
    msgpack_pack_uint32(pk, m->gerror);
    msgpack_pack_uint32(pk, m->gerrorn);
}

static inline void cosim_pack_reset(msgpack_packer *pk, uint32_t seq,
                                    const CosimReset *m)
{
    msgpack_pack_array(pk, 4);
    msgpack_pack_uint8(pk, COSIM_MSG_RESET);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->cause);
    msgpack_pack_uint64(pk, m->time);
}

static inline void cosim_pack_guard_fault(msgpack_packer *pk, uint32_t seq,
                                          const CosimGuardFault *m)
{
    msgpack_pack_array(pk, 9);
    msgpack_pack_uint8(pk, COSIM_MSG_GUARD_FAULT);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint16(pk, m->cpu);
    msgpack_pack_uint64(pk, m->address);
    msgpack_pack_uint8(pk, m->size);
    msgpack_pack_uint8(pk, m->write);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->pc);
}

static inline void cosim_pack_shutdown(msgpack_packer *pk, uint32_t seq,
                                       const CosimShutdown *m)
{
    msgpack_pack_array(pk, 5);
    msgpack_pack_uint8(pk, COSIM_MSG_SHUTDOWN);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->cause);
    msgpack_pack_uint64(pk, m->time);
    msgpack_pack_uint32(pk, m->last_trap_ns);
}

static inline void cosim_pack_done(msgpack_packer *pk, uint32_t seq,
                                   const CosimDone *m)
{
    msgpack_pack_array(pk, 5);
    msgpack_pack_uint8(pk, COSIM_MSG_DONE);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->status);
    cosim_put_u64(pk, m->value);
}

static inline void cosim_pack_data(msgpack_packer *pk, uint32_t seq,
                                   const CosimData *m)
{
    msgpack_pack_array(pk, 4);
    msgpack_pack_uint8(pk, COSIM_MSG_DATA);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->status);
    cosim_put_bin(pk, m->bytes, m->bytes_len);
}

static inline void cosim_pack_predicted_read(msgpack_packer *pk, uint32_t seq,
                                             const CosimPredictedRead *m)
{
    msgpack_pack_array(pk, 9);
    msgpack_pack_uint8(pk, COSIM_MSG_PREDICTED_READ);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint16(pk, m->cpu);
    msgpack_pack_uint32(pk, m->offset);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->pc);
    msgpack_pack_uint32(pk, m->value);
}

static inline void cosim_pack_post_mismatch(msgpack_packer *pk, uint32_t seq,
                                            const CosimPostMismatch *m)
{
    msgpack_pack_array(pk, 5);
    msgpack_pack_uint8(pk, COSIM_MSG_POST_MISMATCH);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint8(pk, m->smmu);
    msgpack_pack_uint32(pk, m->offset);
    msgpack_pack_uint32(pk, m->value);
}

static inline void cosim_pack_stage2_changed(msgpack_packer *pk, uint32_t seq,
                                             const CosimStage2Changed *m)
{
    msgpack_pack_array(pk, 10);
    msgpack_pack_uint8(pk, COSIM_MSG_STAGE2_CHANGED);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint16(pk, m->cpu);
    msgpack_pack_uint64(pk, m->time);
    cosim_put_u64(pk, m->vttbr);
    cosim_put_u64(pk, m->vtcr);
    msgpack_pack_uint8(pk, m->all);
    cosim_put_bin(pk, m->pages, m->pages_len);
}

static inline void cosim_pack_proof(msgpack_packer *pk, uint32_t seq,
                                    const CosimProof *m)
{
    msgpack_pack_array(pk, 4);
    msgpack_pack_uint8(pk, COSIM_MSG_PROOF);
    msgpack_pack_uint32(pk, seq);
    cosim_put_bin(pk, m->nonce, m->nonce_len);
    cosim_put_bin(pk, m->mac, m->mac_len);
}

static inline void cosim_pack_error(msgpack_packer *pk, uint32_t seq,
                                    const CosimError *m)
{
    msgpack_pack_array(pk, 4);
    msgpack_pack_uint8(pk, COSIM_MSG_ERROR);
    msgpack_pack_uint32(pk, seq);
    msgpack_pack_uint16(pk, m->code);
    cosim_put_str(pk, m->text, m->text_len);
}

static inline bool cosim_unpack_error(const msgpack_object *o, CosimError *m,
                                      CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "error: expected 4 elements");
    return f &&
           cosim_get_u16(&f[0], UINT16_MAX, &m->code, err,
                         "error.code: expected a u16") &&
           cosim_get_str(&f[1], &m->text, &m->text_len, err,
                         "error.text: expected str up to 4096 bytes");
}

static inline bool cosim_unpack_welcome(const msgpack_object *o,
                                        CosimWelcome *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 5, err, "welcome: expected 5 elements");
    return f &&
           cosim_get_u16(&f[0], UINT16_MAX, &m->version, err,
                         "welcome.version: expected a u16") &&
           cosim_get_u32(&f[1], UINT32_MAX, &m->features, err,
                         "welcome.features: expected a u32") &&
           cosim_get_str(&f[2], &m->session, &m->session_len, err,
                         "welcome.session: expected str up to 4096 bytes");
}

static inline bool cosim_unpack_refuse(const msgpack_object *o, CosimRefuse *m,
                                       CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 5, err, "refuse: expected 5 elements");
    return f &&
           cosim_get_u16(&f[0], UINT16_MAX, &m->min_version, err,
                         "refuse.minVersion: expected a u16") &&
           cosim_get_u16(&f[1], UINT16_MAX, &m->max_version, err,
                         "refuse.maxVersion: expected a u16") &&
           cosim_get_str(&f[2], &m->text, &m->text_len, err,
                         "refuse.text: expected str up to 4096 bytes");
}

static inline bool cosim_unpack_reply(const msgpack_object *o, CosimReply *m,
                                      CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 5, err, "reply: expected 5 elements");
    return f &&
           cosim_get_u8(&f[0], 1, &m->status, err,
                        "reply.status: expected 0 to 1") &&
           cosim_get_u64(&f[1], &m->value, err, "reply.value: expected a u64");
}

static inline bool cosim_unpack_translated(const msgpack_object *o,
                                           CosimTranslated *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 14, err, "translated: expected 14 elements");
    return f &&
           cosim_get_u8(&f[0], 3, &m->status, err,
                        "translated.status: expected 0 to 3") &&
           cosim_get_u53(&f[1], COSIM_MAX_U53, &m->pa, err,
                         "translated.pa: expected a u53") &&
           cosim_get_u53(&f[2], COSIM_MAX_U53, &m->address_mask, err,
                         "translated.addressMask: expected a u53") &&
           cosim_get_u8(&f[3], 3, &m->permissions, err,
                        "translated.permissions: expected 0 to 3") &&
           cosim_get_u64(&f[4], &m->record0, err,
                         "translated.record0: expected a u64") &&
           cosim_get_u64(&f[6], &m->record1, err,
                         "translated.record1: expected a u64") &&
           cosim_get_u64(&f[8], &m->record2, err,
                         "translated.record2: expected a u64") &&
           cosim_get_u64(&f[10], &m->record3, err,
                         "translated.record3: expected a u64");
}

static inline bool cosim_unpack_hold(const msgpack_object *o, CosimError *err)
{
    return cosim_fields(o, 2, err, "hold: expected 2 elements") != NULL;
}

static inline bool cosim_unpack_hw_read(const msgpack_object *o, CosimHwRead *m,
                                        CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 5, err, "hwRead: expected 5 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "hwRead.smmu: expected a u8") &&
           cosim_get_u32(&f[1], UINT32_MAX, &m->offset, err,
                         "hwRead.offset: expected a u32") &&
           cosim_get_u8(&f[2], 8, &m->size, err,
                        "hwRead.size: expected 0 to 8");
}

static inline bool cosim_unpack_hw_write(const msgpack_object *o,
                                         CosimHwWrite *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 7, err, "hwWrite: expected 7 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "hwWrite.smmu: expected a u8") &&
           cosim_get_u32(&f[1], UINT32_MAX, &m->offset, err,
                         "hwWrite.offset: expected a u32") &&
           cosim_get_u8(&f[2], 8, &m->size, err,
                        "hwWrite.size: expected 0 to 8") &&
           cosim_get_u64(&f[3], &m->value, err,
                         "hwWrite.value: expected a u64");
}

static inline bool cosim_unpack_mem_read(const msgpack_object *o,
                                         CosimMemRead *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "memRead: expected 4 elements");
    return f &&
           cosim_get_u53(&f[0], COSIM_MAX_U53, &m->address, err,
                         "memRead.address: expected a u53") &&
           cosim_get_u32(&f[1], COSIM_MAX_BYTES, &m->length, err,
                         "memRead.length: expected 0 to 1048512");
}

static inline bool cosim_unpack_mem_write(const msgpack_object *o,
                                          CosimMemWrite *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "memWrite: expected 4 elements");
    return f &&
           cosim_get_u53(&f[0], COSIM_MAX_U53, &m->address, err,
                         "memWrite.address: expected a u53") &&
           cosim_get_bin(&f[1], COSIM_MAX_BYTES, &m->bytes, &m->bytes_len, err,
                         "memWrite.bytes: expected bin up to 1048512 bytes");
}

static inline bool cosim_unpack_irq(const msgpack_object *o, CosimIrq *m,
                                    CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "irq: expected 4 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "irq.smmu: expected a u8") &&
           cosim_get_u8(&f[1], 3, &m->line, err, "irq.line: expected 0 to 3");
}

static inline bool cosim_unpack_invalidate(const msgpack_object *o,
                                           CosimInvalidate *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 5, err, "invalidate: expected 5 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "invalidate.smmu: expected a u8") &&
           cosim_get_u8(&f[1], 2, &m->scope, err,
                        "invalidate.scope: expected 0 to 2") &&
           cosim_get_u32(&f[2], UINT32_MAX, &m->sid, err,
                         "invalidate.sid: expected a u32");
}

static inline bool cosim_unpack_guard_add(const msgpack_object *o,
                                          CosimGuardAdd *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "guardAdd: expected 4 elements");
    return f &&
           cosim_get_u53(&f[0], COSIM_MAX_U53, &m->base, err,
                         "guardAdd.base: expected a u53") &&
           cosim_get_u53(&f[1], COSIM_MAX_U53, &m->size, err,
                         "guardAdd.size: expected a u53");
}

static inline bool cosim_unpack_guard_remove(const msgpack_object *o,
                                             CosimGuardRemove *m,
                                             CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "guardRemove: expected 4 elements");
    return f &&
           cosim_get_u53(&f[0], COSIM_MAX_U53, &m->base, err,
                         "guardRemove.base: expected a u53") &&
           cosim_get_u53(&f[1], COSIM_MAX_U53, &m->size, err,
                         "guardRemove.size: expected a u53");
}

static inline bool cosim_unpack_translate_mode(const msgpack_object *o,
                                               CosimTranslateMode *m,
                                               CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "translateMode: expected 4 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "translateMode.smmu: expected a u8") &&
           cosim_get_u8(&f[1], 2, &m->mode, err,
                        "translateMode.mode: expected 0 to 2");
}

static inline bool cosim_unpack_checkpoint(const msgpack_object *o,
                                           CosimCheckpoint *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 3, err, "checkpoint: expected 3 elements");
    return f &&
           cosim_get_bin(&f[0], COSIM_MAX_CHECKPOINT, &m->bytes, &m->bytes_len,
                         err,
                         "checkpoint.bytes: expected bin up to 524288 bytes");
}

static inline bool cosim_unpack_pause(const msgpack_object *o, CosimError *err)
{
    return cosim_fields(o, 2, err, "pause: expected 2 elements") != NULL;
}

static inline bool cosim_unpack_resume(const msgpack_object *o, CosimError *err)
{
    return cosim_fields(o, 2, err, "resume: expected 2 elements") != NULL;
}

static inline bool cosim_unpack_quit(const msgpack_object *o, CosimQuit *m,
                                     CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "quit: expected 4 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->code, err,
                        "quit.code: expected a u8") &&
           cosim_get_str(&f[1], &m->text, &m->text_len, err,
                         "quit.text: expected str up to 4096 bytes");
}

static inline bool cosim_unpack_hw_post(const msgpack_object *o, CosimHwPost *m,
                                        CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 8, err, "hwPost: expected 8 elements");
    return f &&
           cosim_get_u8(&f[0], UINT8_MAX, &m->smmu, err,
                        "hwPost.smmu: expected a u8") &&
           cosim_get_u32(&f[1], UINT32_MAX, &m->offset, err,
                         "hwPost.offset: expected a u32") &&
           cosim_get_u32(&f[2], UINT32_MAX, &m->value, err,
                         "hwPost.value: expected a u32") &&
           cosim_get_u32(&f[3], UINT32_MAX, &m->check_offset, err,
                         "hwPost.checkOffset: expected a u32") &&
           cosim_get_u32(&f[4], UINT32_MAX, &m->check_value, err,
                         "hwPost.checkValue: expected a u32") &&
           cosim_get_u32(&f[5], UINT32_MAX, &m->answer, err,
                         "hwPost.answer: expected a u32");
}

static inline bool cosim_unpack_watch(const msgpack_object *o, CosimWatch *m,
                                      CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "watch: expected 4 elements");
    return f &&
           cosim_get_u53(&f[0], COSIM_MAX_U53, &m->page, err,
                         "watch.page: expected a u53") &&
           cosim_get_u8(&f[1], 1, &m->on, err, "watch.on: expected 0 to 1");
}

static inline bool cosim_unpack_sys_reg(const msgpack_object *o, CosimSysReg *m,
                                        CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "sysReg: expected 4 elements");
    return f &&
           cosim_get_u16(&f[0], UINT16_MAX, &m->cpu, err,
                         "sysReg.cpu: expected a u16") &&
           cosim_get_u8(&f[1], 5, &m->reg, err, "sysReg.reg: expected 0 to 5");
}

static inline bool cosim_unpack_ring_open(const msgpack_object *o,
                                          CosimRingOpen *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 3, err, "ringOpen: expected 3 elements");
    return f &&
           cosim_get_u32(&f[0], UINT32_MAX, &m->size, err,
                         "ringOpen.size: expected a u32");
}

static inline bool cosim_unpack_challenge(const msgpack_object *o,
                                          CosimChallenge *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 3, err, "challenge: expected 3 elements");
    return f &&
           cosim_get_bin(&f[0], 32, &m->nonce, &m->nonce_len, err,
                         "challenge.nonce: expected bin up to 32 bytes");
}

static inline bool cosim_unpack_confirm(const msgpack_object *o,
                                        CosimConfirm *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 3, err, "confirm: expected 3 elements");
    return f &&
           cosim_get_bin(&f[0], 32, &m->mac, &m->mac_len, err,
                         "confirm.mac: expected bin up to 32 bytes");
}

static inline bool cosim_unpack_park(const msgpack_object *o, CosimError *err)
{
    return cosim_fields(o, 2, err, "park: expected 2 elements") != NULL;
}

static inline bool cosim_unpack_call_stack(const msgpack_object *o,
                                           CosimCallStack *m, CosimError *err)
{
    const msgpack_object *f;

    f = cosim_fields(o, 4, err, "callStack: expected 4 elements");
    return f &&
           cosim_get_u16(&f[0], UINT16_MAX, &m->cpu, err,
                         "callStack.cpu: expected a u16") &&
           cosim_get_u8(&f[1], 64, &m->depth, err,
                        "callStack.depth: expected 0 to 64");
}

#endif /* HW_ARM_SMMU_COSIM_PROTOCOL_H */
