// SPDX-License-Identifier: Apache-2.0
/**
 * The hyp warnings (server/hypervisor/README.md, section 15). Where the real hypervisor would stop with a WARN, ours
 * records one of these and goes on as its section says. A code never changes its meaning; ids are for binary traces,
 * append only.
 */
import { defineWarning, type HypWarning, type WarningTable } from '../../policy/warnings.ts'

// Sections of the behaviour reference.
const REGISTER_FRAME = 'server/hypervisor/README.md#4-register-frame'
const CR0_TRANSITIONS = 'server/hypervisor/README.md#5-cr0-transitions'
const COMMAND_QUEUE = 'server/hypervisor/README.md#6-command-queue'
const STREAM_TABLE_ENTRIES = 'server/hypervisor/README.md#7-stream-table-entries'
const EL2 = 'server/hypervisor/README.md#17-following-a-hypervisor-at-el2'
const STAGE_2_IDMAP = 'server/hypervisor/README.md#9-stage-2-idmap'
const POWER = 'server/hypervisor/README.md#19-power'

const list: HypWarning[] = []

const warning = (code: string, section: string, meaning: string, values: readonly string[], expected = false) =>
  defineWarning(list, code, section, meaning, values, expected)

export const HYP_UNKNOWN_REGISTER = warning(
  'HYP_UNKNOWN_REGISTER',
  REGISTER_FRAME,
  'The host accessed an offset of the frame that is not emulated.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_ACCESS_WIDTH = warning(
  'HYP_ACCESS_WIDTH',
  REGISTER_FRAME,
  'The host accessed a register with a size other than its own.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_ACCESS_DIRECTION = warning(
  'HYP_ACCESS_DIRECTION',
  REGISTER_FRAME,
  'The host wrote a register that is read-only, or read one that is write-only.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_CR1_VALUE = warning(
  'HYP_CR1_VALUE',
  REGISTER_FRAME,
  'The host wrote CR1 with attributes other than inner shareable, write-back; the required value was written instead.',
  ['value', 'written'],
)
export const HYP_STRTAB_BASE_LIVE = warning(
  'HYP_STRTAB_BASE_LIVE',
  REGISTER_FRAME,
  'The host wrote STRTAB_BASE while SMMUEN is set.',
  ['valueLo', 'valueHi'],
)
export const HYP_STRTAB_BASE_CFG_LIVE = warning(
  'HYP_STRTAB_BASE_CFG_LIVE',
  REGISTER_FRAME,
  'The host wrote STRTAB_BASE_CFG while SMMUEN is set.',
  ['value'],
)
export const HYP_CMDQ_BASE_LIVE = warning(
  'HYP_CMDQ_BASE_LIVE',
  REGISTER_FRAME,
  'The host wrote CMDQ_BASE while CMDQEN is set.',
  ['valueLo', 'valueHi'],
)
export const HYP_CMDQ_CONS_LIVE = warning(
  'HYP_CMDQ_CONS_LIVE',
  REGISTER_FRAME,
  'The host wrote CMDQ_CONS while CMDQEN is set.',
  ['value'],
)
export const HYP_EVTQ_BASE_LIVE = warning(
  'HYP_EVTQ_BASE_LIVE',
  REGISTER_FRAME,
  'The host wrote EVTQ_BASE while EVTQEN is set.',
  ['valueLo', 'valueHi'],
)
export const HYP_PRIQ_BASE_LIVE = warning(
  'HYP_PRIQ_BASE_LIVE',
  REGISTER_FRAME,
  'The host wrote PRIQ_BASE while PRIQEN is set.',
  ['valueLo', 'valueHi'],
)

export const HYP_CMDQ_SHARE = warning(
  'HYP_CMDQ_SHARE',
  CR0_TRANSITIONS,
  "The pages of the host's command queue could not be shared; the queue stays disabled.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_CMDQ_UNSHARE = warning(
  'HYP_CMDQ_UNSHARE',
  CR0_TRANSITIONS,
  "The pages of the host's command queue could not be unshared.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_EVTQ_SHARE = warning(
  'HYP_EVTQ_SHARE',
  CR0_TRANSITIONS,
  'The pages of the event queue could not be shared; the queue stays disabled.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_EVTQ_DISABLED = warning(
  'HYP_EVTQ_DISABLED',
  CR0_TRANSITIONS,
  'The host disabled the event queue while the SMMU goes on running.',
  ['before', 'after'],
)
export const HYP_PRIQ_SHARE = warning(
  'HYP_PRIQ_SHARE',
  CR0_TRANSITIONS,
  'The pages of the PRI queue could not be shared; the queue stays disabled.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_PRIQ_DISABLED = warning(
  'HYP_PRIQ_DISABLED',
  CR0_TRANSITIONS,
  'The host disabled the PRI queue while the SMMU goes on running.',
  ['before', 'after'],
)
export const HYP_QUEUE_DISABLED_AT_SHUTDOWN = warning(
  'HYP_QUEUE_DISABLED_AT_SHUTDOWN',
  CR0_TRANSITIONS,
  'The host cleared CR0 with the event or PRI queue enabled, as an unmodified driver does at power-off and reboot.',
  ['before', 'after'],
  true,
)
export const HYP_SMMUEN_WITHOUT_CMDQ = warning(
  'HYP_SMMUEN_WITHOUT_CMDQ',
  CR0_TRANSITIONS,
  'The host enabled the SMMU without its command queue, so TLB invalidation would not work; it stays disabled.',
  ['before', 'after'],
)
export const HYP_STRTAB_FORMAT = warning(
  'HYP_STRTAB_FORMAT',
  CR0_TRANSITIONS,
  "The host's stream table has a format or size that the shadow cannot follow; the SMMU stays disabled.",
  ['baseLo', 'baseHi', 'cfg'],
)
export const HYP_STRTAB_SHARE = warning(
  'HYP_STRTAB_SHARE',
  CR0_TRANSITIONS,
  "The pages of the host's stream table could not be shared; the SMMU stays disabled.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_STRTAB_UNSHARE = warning(
  'HYP_STRTAB_UNSHARE',
  CR0_TRANSITIONS,
  "The pages of the host's stream table could not be unshared.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_QUEUE_UNSHARE = warning(
  'HYP_QUEUE_UNSHARE',
  CR0_TRANSITIONS,
  'The pages of an event or PRI queue could not be unshared.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)

export const HYP_CMDQ_FETCH = warning(
  'HYP_CMDQ_FETCH',
  COMMAND_QUEUE,
  "Commands could not be copied from the host's queue.",
  ['baseLo', 'baseHi', 'bytes'],
)
export const HYP_CMDQ_ROOM = warning(
  'HYP_CMDQ_ROOM',
  COMMAND_QUEUE,
  "No room appeared in the shadow command queue in time; the rest of the commands waits in the host's queue.",
  ['prod', 'cons'],
)
export const HYP_CMDQ_TIMEOUT = warning(
  'HYP_CMDQ_TIMEOUT',
  COMMAND_QUEUE,
  'The hardware did not consume the shadow command queue in time.',
  ['prod', 'cons', 'gerror'],
)
export const HYP_CMDQ_STOPPED = warning(
  'HYP_CMDQ_STOPPED',
  COMMAND_QUEUE,
  'The hardware stopped at a command of the shadow queue and waits for the host to acknowledge GERROR.CMDQ_ERR.',
  ['prod', 'cons', 'gerror'],
)
export const HYP_COMMAND_REFUSED = warning(
  'HYP_COMMAND_REFUSED',
  COMMAND_QUEUE,
  'The host issued a command that its driver does not use; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)
export const HYP_COMMAND_VMID = warning(
  'HYP_COMMAND_VMID',
  COMMAND_QUEUE,
  'The host issued a TLB invalidation for a VMID other than 0; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)
export const HYP_CFGI_RANGE = warning(
  'HYP_CFGI_RANGE',
  COMMAND_QUEUE,
  'The host issued CFGI_STE_RANGE for less than everything; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)

export const HYP_CFGI_STE = warning(
  'HYP_CFGI_STE',
  STREAM_TABLE_ENTRIES,
  'A stream table entry could not be shadowed; a CFGI_STE for it was dropped.',
  ['sid', 'leaf', 'error'],
)

export const HYP_UNMAP = warning(
  'HYP_UNMAP',
  STAGE_2_IDMAP,
  'A page could not be taken from the stage-2 idmap, or its translation not invalidated.',
  ['baseLo', 'baseHi', 'pages', 'error'],
)

export const HYP_MSI_REGISTER = warning(
  'HYP_MSI_REGISTER',
  REGISTER_FRAME,
  'The host gave the SMMU an address, data or attributes for interrupts as messages, which would be written past stage 2.',
  ['offset', 'valueLo', 'valueHi'],
)
export const HYP_GERRORN_INACTIVE = warning(
  'HYP_GERRORN_INACTIVE',
  COMMAND_QUEUE,
  'The host acknowledged a global error that is not active; only those that are were acknowledged.',
  ['value', 'gerror', 'gerrorn'],
)
export const HYP_QUEUE_DISABLED_BY_CRASH_KERNEL = warning(
  'HYP_QUEUE_DISABLED_BY_CRASH_KERNEL',
  CR0_TRANSITIONS,
  'The host enabled the SMMU and disabled the event or PRI queue in one write, as an unmodified driver does in a crash kernel.',
  ['before', 'after'],
  true,
)
export const HYP_EL2_TABLES = warning(
  'HYP_EL2_TABLES',
  EL2,
  "EL2's tables for its host cannot be followed: the machine does not go on.",
  ['vttbrLo', 'vttbrHi', 'vtcrLo', 'vtcrHi'],
)
export const HYP_EL2_TOOK_SHARED = warning(
  'HYP_EL2_TOOK_SHARED',
  EL2,
  'EL2 took pages from its host that a queue or table of the SMMU is in: the machine does not go on.',
  ['baseLo', 'baseHi', 'pages', 'pins'],
)
export const HYP_CMDQ_PROD = warning(
  'HYP_CMDQ_PROD',
  COMMAND_QUEUE,
  'CMDQ_PROD is further ahead of CMDQ_CONS than the queue is long: old commands would run again. Nothing was sent.',
  ['prod', 'cons', 'entries'],
)
export const HYP_CR0ACK = warning(
  'HYP_CR0ACK',
  CR0_TRANSITIONS,
  'CR0ACK did not follow CR0 in time: what was enabled counts as enabled, and CR0 is not written before it does.',
  ['written', 'cr0', 'cr0ack'],
)
export const HYP_SMMUEN_STALE = warning(
  'HYP_SMMUEN_STALE',
  CR0_TRANSITIONS,
  'What the SMMU may have cached could not be invalidated before the SMMU is enabled; it stays disabled.',
  ['before', 'after', 'error'],
)
export const HYP_CMDQ_DISABLED = warning(
  'HYP_CMDQ_DISABLED',
  CR0_TRANSITIONS,
  'The host disabled the command queue while the SMMU goes on running; the queue stays enabled.',
  ['before', 'after'],
)
export const HYP_STE_UNSHADOWED = warning(
  'HYP_STE_UNSHADOWED',
  STREAM_TABLE_ENTRIES,
  "Entries of the host's stream table let transactions pass, and no CFGI_STE has told of them: their streams end in C_BAD_STE or C_BAD_STREAMID.",
  ['sid', 'streams'],
)
export const HYP_QUEUE_DISABLED_AT_SUSPEND = warning(
  'HYP_QUEUE_DISABLED_AT_SUSPEND',
  CR0_TRANSITIONS,
  'The host left nothing but its command queue enabled, as a driver with runtime power management does when it suspends.',
  ['before', 'after'],
  true,
)
export const HYP_POWERED_OFF = warning(
  'HYP_POWERED_OFF',
  POWER,
  'The host accessed an SMMU that is switched off: the access ends in an external abort.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_STATE_LOST = warning(
  'HYP_STATE_LOST',
  POWER,
  'The hardware lost what the hypervisor had programmed though nobody had switched it off by asking: devices may have reached anything meanwhile.',
  ['cr0', 'hardwareCr0', 'hardwareGbpa'],
)

/** All of them, by id - 1. */
export const HYP_WARNINGS: WarningTable = list
