// SPDX-License-Identifier: Apache-2.0
/**
 * The hyp warnings. Where the real hypervisor would stop with a WARN, ours records one of these and goes on as its
 * section of the behaviour reference says. A code never changes its meaning; ids are for binary traces, append only.
 */
import { resultName } from '../../policy/result.ts'

export interface HypWarning {
  readonly id: number
  readonly code: string
  /** Section of the behaviour reference. */
  readonly section: string
  readonly meaning: string
  /** Names of the 32-bit values that come with it; a pair xLo, xHi is one 64-bit value. At most four. */
  readonly values: readonly string[]
  /** An unmodified driver does this in normal operation: listed apart, does not count as unexpected. */
  readonly expected: boolean
}

const list: HypWarning[] = []

function warning(code: string, section: string, meaning: string, values: readonly string[], expected = false) {
  const entry: HypWarning = { id: list.length + 1, code, section, meaning, values, expected }
  list.push(entry)
  return entry
}

// 4. Register frame
export const HYP_UNKNOWN_REGISTER = warning(
  'HYP_UNKNOWN_REGISTER',
  '4',
  'The host accessed an offset of the frame that is not emulated.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_ACCESS_WIDTH = warning(
  'HYP_ACCESS_WIDTH',
  '4',
  'The host accessed a register with a size other than its own.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_ACCESS_DIRECTION = warning(
  'HYP_ACCESS_DIRECTION',
  '4',
  'The host wrote a register that is read-only, or read one that is write-only.',
  ['offset', 'size', 'valueLo', 'valueHi'],
)
export const HYP_CR1_VALUE = warning(
  'HYP_CR1_VALUE',
  '4',
  'The host wrote CR1 with attributes other than inner shareable, write-back; the required value was written instead.',
  ['value', 'written'],
)
export const HYP_STRTAB_BASE_LIVE = warning(
  'HYP_STRTAB_BASE_LIVE',
  '4',
  'The host wrote STRTAB_BASE while SMMUEN is set.',
  ['valueLo', 'valueHi'],
)
export const HYP_STRTAB_BASE_CFG_LIVE = warning(
  'HYP_STRTAB_BASE_CFG_LIVE',
  '4',
  'The host wrote STRTAB_BASE_CFG while SMMUEN is set.',
  ['value'],
)
export const HYP_CMDQ_BASE_LIVE = warning('HYP_CMDQ_BASE_LIVE', '4', 'The host wrote CMDQ_BASE while CMDQEN is set.', [
  'valueLo',
  'valueHi',
])
export const HYP_CMDQ_CONS_LIVE = warning('HYP_CMDQ_CONS_LIVE', '4', 'The host wrote CMDQ_CONS while CMDQEN is set.', [
  'value',
])
export const HYP_EVTQ_BASE_LIVE = warning('HYP_EVTQ_BASE_LIVE', '4', 'The host wrote EVTQ_BASE while EVTQEN is set.', [
  'valueLo',
  'valueHi',
])
export const HYP_PRIQ_BASE_LIVE = warning('HYP_PRIQ_BASE_LIVE', '4', 'The host wrote PRIQ_BASE while PRIQEN is set.', [
  'valueLo',
  'valueHi',
])

// 5. CR0 transitions
export const HYP_CMDQ_SHARE = warning(
  'HYP_CMDQ_SHARE',
  '5',
  "The pages of the host's command queue could not be shared; the queue stays disabled.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_CMDQ_UNSHARE = warning(
  'HYP_CMDQ_UNSHARE',
  '5',
  "The pages of the host's command queue could not be unshared.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_EVTQ_SHARE = warning(
  'HYP_EVTQ_SHARE',
  '5',
  'The pages of the event queue could not be shared; the queue stays disabled.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_EVTQ_DISABLED = warning(
  'HYP_EVTQ_DISABLED',
  '5',
  'The host disabled the event queue while the SMMU goes on running.',
  ['before', 'after'],
)
export const HYP_PRIQ_SHARE = warning(
  'HYP_PRIQ_SHARE',
  '5',
  'The pages of the PRI queue could not be shared; the queue stays disabled.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_PRIQ_DISABLED = warning(
  'HYP_PRIQ_DISABLED',
  '5',
  'The host disabled the PRI queue while the SMMU goes on running.',
  ['before', 'after'],
)
export const HYP_QUEUE_DISABLED_AT_SHUTDOWN = warning(
  'HYP_QUEUE_DISABLED_AT_SHUTDOWN',
  '5',
  'The host cleared CR0 with the event or PRI queue enabled, as an unmodified driver does at power-off and reboot.',
  ['before', 'after'],
  true,
)
export const HYP_SMMUEN_WITHOUT_CMDQ = warning(
  'HYP_SMMUEN_WITHOUT_CMDQ',
  '5',
  'The host enabled the SMMU without its command queue, so TLB invalidation would not work; it stays disabled.',
  ['before', 'after'],
)
export const HYP_STRTAB_FORMAT = warning(
  'HYP_STRTAB_FORMAT',
  '5',
  "The host's stream table has a format or size that the shadow cannot follow; the SMMU stays disabled.",
  ['baseLo', 'baseHi', 'cfg'],
)
export const HYP_STRTAB_SHARE = warning(
  'HYP_STRTAB_SHARE',
  '5',
  "The pages of the host's stream table could not be shared; the SMMU stays disabled.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_STRTAB_UNSHARE = warning(
  'HYP_STRTAB_UNSHARE',
  '5',
  "The pages of the host's stream table could not be unshared.",
  ['baseLo', 'baseHi', 'bytes', 'error'],
)
export const HYP_QUEUE_UNSHARE = warning(
  'HYP_QUEUE_UNSHARE',
  '5',
  'The pages of an event or PRI queue could not be unshared.',
  ['baseLo', 'baseHi', 'bytes', 'error'],
)

// 6. Command queue
export const HYP_CMDQ_FETCH = warning('HYP_CMDQ_FETCH', '6', "Commands could not be copied from the host's queue.", [
  'baseLo',
  'baseHi',
  'bytes',
])
export const HYP_CMDQ_ROOM = warning(
  'HYP_CMDQ_ROOM',
  '6',
  'No room appeared in the shadow command queue in time; the commands were lost.',
  ['prod', 'cons'],
)
export const HYP_CMDQ_TIMEOUT = warning(
  'HYP_CMDQ_TIMEOUT',
  '6',
  'The hardware did not consume the shadow command queue in time.',
  ['prod', 'cons', 'gerror'],
)
export const HYP_CMDQ_STOPPED = warning(
  'HYP_CMDQ_STOPPED',
  '6',
  'The hardware stopped at a command of the shadow queue and waits for the host to acknowledge GERROR.CMDQ_ERR.',
  ['prod', 'cons', 'gerror'],
)
export const HYP_COMMAND_REFUSED = warning(
  'HYP_COMMAND_REFUSED',
  '6',
  'The host issued a command that its driver does not use; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)
export const HYP_COMMAND_VMID = warning(
  'HYP_COMMAND_VMID',
  '6',
  'The host issued a TLB invalidation for a VMID other than 0; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)
export const HYP_CFGI_RANGE = warning(
  'HYP_CFGI_RANGE',
  '6',
  'The host issued CFGI_STE_RANGE for less than everything; it was dropped.',
  ['word0', 'word1', 'word2', 'word3'],
)

// 7. Stream table entries
export const HYP_CFGI_STE = warning(
  'HYP_CFGI_STE',
  '7',
  'A stream table entry could not be shadowed; the command was dropped.',
  ['sid', 'leaf', 'error'],
)

// 9. Stage-2 idmap
export const HYP_UNMAP = warning(
  'HYP_UNMAP',
  '9',
  'A page could not be taken from the stage-2 idmap, or its translation not invalidated.',
  ['baseLo', 'baseHi', 'pages', 'error'],
)

/** All of them, by id - 1. */
export const HYP_WARNINGS: readonly HypWarning[] = list

/** The values of a warning for a person: `name=0x…`, pairs joined. */
export function formatWarningValues(warning: HypWarning, values: readonly number[]): string {
  const out: string[] = []
  for (let i = 0; i < warning.values.length; i++) {
    const name = warning.values[i] ?? ''
    const value = values[i] ?? 0
    if (name.endsWith('Lo')) {
      const high = values[++i] ?? 0
      out.push(`${name.slice(0, -2)}=0x${(BigInt(high >>> 0) * 0x1_0000_0000n + BigInt(value >>> 0)).toString(16)}`)
    } else if (name === 'error') {
      out.push(`error=${resultName(value)}`)
    } else {
      out.push(`${name}=0x${(value >>> 0).toString(16)}`)
    }
  }
  return out.join(' ')
}

export const WARNING_CODES = HYP_WARNINGS.map(({ code }) => code)

export const warningNumber = (code: string): number | undefined =>
  HYP_WARNINGS.find(warning => warning.code === code.toUpperCase())?.id
