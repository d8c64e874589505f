// SPDX-License-Identifier: Apache-2.0

import type { OwnQemu } from '../../scripts/setup/index.ts'
import type { UntranslatedMaster } from '../machine/masters.ts'
import type { BenchEntry, TimedEntry, WorkloadEntry } from '../machine/workload.ts'
import type { SmmuCount } from '../trace/counters.ts'
import type { RecorderSummary } from '../trace/recorder.ts'
import type { El2Report } from '../trap/el2Oracle.ts'
import type { TransportUse } from '../trap/messages.ts'
import type { OracleReport } from '../trap/oracleReport.ts'
import type { AttackReport } from './attackTable.ts'
import type { Outcome } from './ending.ts'
import type { AcpiReport } from './iort.ts'
import type { SuccessorReport } from './successor.ts'

/** The report of one run, as `--report FILE` writes it. Fields are only ever added within a schema version. */
export const REPORT_SCHEMA = 'smmu-cosim/report/1'

/** Percentiles, µs. */
export interface Percentiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

export interface TrapReport {
  /** Accesses of the guest. */
  readonly total: number
  readonly reads: number
  readonly writes: number
  /** Of the reads: QEMU answered them by itself, as it had been told to. */
  readonly predicted: number
  /** Most frequent first; Linux's register names, `0x…` for offsets that are no register. */
  readonly byRegister: readonly { readonly register: string; readonly reads: number; readonly writes: number }[]
  /** Of each SMMU. */
  readonly bySmmu: readonly SmmuCount[]
  /** Round trip as QEMU measured it. */
  readonly latencyUs: Percentiles
  /** From frame received to reply sent. */
  readonly serverUs: Percentiles
}

export interface Report {
  readonly schema: typeof REPORT_SCHEMA
  readonly outcome: Outcome
  /** One sentence when the outcome is not `ok`. */
  readonly message?: string
  /** `baseline` when no server took part. */
  readonly policy: string
  /** Known defects that the policy was told to show: it was not the policy as it is. Absent: none. */
  readonly quirks?: readonly string[]
  /** RAM was mapped in blocks, and the BBM level that was made use of at most; absent: pages, and what the SMMUs have. */
  readonly blocks?: boolean
  readonly bbm?: number
  /** SMMUs could be switched off and on, and how; absent: they could not. */
  readonly power?: string
  /** EL2's tables were the second stage, and what became of what they did not map; absent: the policy's own were. */
  readonly stage2?: string
  readonly populate?: string
  /** Prefix of the series, for the policy `pkvm`. */
  readonly until?: string
  readonly kernel: string
  /** Version of QEMU; absent: it did not say. */
  readonly qemu?: string
  /** The source tree that it was built from, or the binary that somebody else built; absent: Debian's source, with the patches. */
  readonly qemuOwn?: OwnQemu
  /** Start of the machine until its end, ms. */
  readonly wallMs: number
  /** Start of QEMU until the guest's userspace, ms; null when it never got there. */
  readonly bootMs: number | null
  /** With `--kexec`: the kernel that the first one started. */
  readonly successor?: SuccessorReport
  /** null for a baseline run. */
  readonly traps: TrapReport | null
  /** What traps travelled through at the end, and how guest RAM was reached. */
  readonly transport?: TransportUse
  readonly workload: readonly WorkloadEntry[]
  /** With `--exec`: the command, and its exit code; null: the machine ended first. */
  readonly exec?: { readonly command: string; readonly code: number | null }
  /** An initramfs of the user's own: what its guest does is not checked. */
  readonly initrd?: string
  /** Timed reads, with `--bench`. */
  readonly bench?: readonly BenchEntry[]
  /** With `cosim.parallel` or `cosim.compute` on the kernel command line. */
  readonly timed?: readonly TimedEntry[]
  /** With firmware: the SMMUs and StreamIDs of the guest's IORT, and where they are not the machine's. */
  readonly acpi?: AcpiReport
  /** With `--el2 pkvm`. */
  readonly attacks?: AttackReport
  /** What was looked at with `--oracle`, and what was found. */
  readonly oracle?: OracleReport
  /** Whether devices reached, at the end, what EL2 let its host reach; when the vCPUs have an EL2. */
  readonly el2?: El2Report
  /** The recording: file, size, records, and what was lost on the way to it. */
  readonly recording?: RecorderSummary
  /**
   * Every device reaches the host's pages only: the policy has a second stage, no device goes past the SMMU, and neither an oracle
   * nor an attack says otherwise.
   */
  readonly isolated?: boolean
  /** Devices that go past the SMMU. */
  readonly untranslated?: readonly UntranslatedMaster[]
  /** Path of the console log. */
  readonly console: string
  /** Further sections by the policy: `warnings`, `commands`, `streams`, … */
  readonly [section: string]: unknown
}

/** Which QEMU ran: not Debian's, perhaps. */
export function qemuText({ qemu = 'of an unknown version', qemuOwn }: Pick<Report, 'qemu' | 'qemuOwn'>): string {
  if (qemuOwn === undefined) return `QEMU ${qemu}`
  return `QEMU ${qemu}, ${qemuOwn.what === 'source' ? 'built from the source in' : 'the binary'} ${qemuOwn.path}`
}
