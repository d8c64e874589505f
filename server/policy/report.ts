// SPDX-License-Identifier: Apache-2.0
import type { HypWarning } from './warnings.ts'

/** What happened to pages; `PageOperation` in a report. Append only: the numbers go into traces. */
export const PAGE_DONATE = 1
export const PAGE_RECLAIM = 2
export const PAGE_SHARE = 3
export const PAGE_UNSHARE = 4

/** Names of these. */
export const PAGE_OPERATION_NAMES: Readonly<Record<number, 'donate' | 'reclaim' | 'share' | 'unshare'>> = {
  [PAGE_DONATE]: 'donate',
  [PAGE_RECLAIM]: 'reclaim',
  [PAGE_SHARE]: 'share',
  [PAGE_UNSHARE]: 'unshare',
}

/** What became of a command of the host's queue. Append only: the numbers go into traces. */
export const COMMAND_KEPT = 0
/** The hardware gets it, with other fields. */
export const COMMAND_REWRITTEN = 1
export const COMMAND_DROPPED = 2
export type CommandVerdict = typeof COMMAND_KEPT | typeof COMMAND_REWRITTEN | typeof COMMAND_DROPPED

/** `hostConfig` and `shadowConfig` of a stream whose entry is not valid. */
export const STE_INVALID = -1

/**
 * What the hypervisor tells the outside, called synchronously at the place. Numbers only, so that the calls allocate
 * nothing; an implementation must not throw (stopping at a warning is the sink's own business, by pausing).
 */
export interface HypReport {
  /**
   * A hyp warning. `trap` is the seq of the trap that is being decided, 0 outside of traps. `a` to `d` are the
   * warning's `values` in order, 0 where it has fewer.
   */
  warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void
  /** A command of the host was filtered. Hot. */
  command(smmu: number, opcode: number, verdict: CommandVerdict): void
  /** The hypervisor issued a command of its own. */
  hypCommand(smmu: number, opcode: number): void
  /** A stream table entry was shadowed; Config fields, or STE_INVALID. */
  stream(smmu: number, sid: number, hostConfig: number, shadowConfig: number): void
  /** Ownership of pages changed, or was refused. `owner`: VM id of a donation or reclaim, else 0. Bytes. */
  pages(operation: number, base: number, size: number, owner: number, result: number): void
  /** At reset: an SMMU was probed. `refusal` is null, or why it cannot isolate, for a person. */
  probe(smmu: number, refusal: string | null): void
}

/** Tells nobody. */
export const SILENT: HypReport = {
  warn() {},
  command() {},
  hypCommand() {},
  stream() {},
  pages() {},
  probe() {},
}
