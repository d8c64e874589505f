// SPDX-License-Identifier: Apache-2.0

import type { FaultStatus } from '../faults/injector.ts'
import type { UntranslatedMaster } from '../machine/masters.ts'
import { describeDisagreement } from '../oracle/agreement.ts'
import type { AttackReport } from '../run/attackTable.ts'
import type { AcpiReport } from '../run/iort.ts'
import { type Percentiles, qemuText, type Report } from '../run/runReport.ts'
import type { SuccessorReport } from '../run/successor.ts'
import { type CommandCount, describeSmmu } from '../trace/counters.ts'
import { counted, grouped, micros, tenths } from '../trace/words.ts'
import type { TranslateReport } from '../translate/translator.ts'
import type { El2Report } from '../trap/el2Oracle.ts'
import type { TransportUse } from '../trap/messages.ts'
import type { OracleReport } from '../trap/oracleReport.ts'
import type { WarningSummary } from '../trap/reporter.ts'
import { report } from './terminal.ts'

const mib = (bytes: number): string => (bytes >= 1 << 20 ? `${tenths(bytes / 2 ** 20)} MiB` : `${grouped(bytes)} B`)
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`
const quantiles = ({ p50, p90, p99, max }: Percentiles): string =>
  `p50 ${micros(p50)}, p90 ${tenths(p90)}, p99 ${tenths(p99)}, max ${tenths(max)}`

function translateLines(report: TranslateReport): string[] {
  const { mode, misses, faults, mismatches, findings, explained, medianUs, p99Us } = report
  const what = `${counted(misses, 'IOTLB miss', 'IOTLB misses')}, ${counted(faults, 'fault')}`
  const lines = [`  translate ${mode}: ${what}; p50 ${micros(medianUs)}, p99 ${tenths(p99Us)}`]
  if (mode !== 'lockstep') return lines
  lines.push(
    mismatches === 0
      ? '    no unexplained difference'
      : `    ${counted(mismatches, 'DIFFERENCE', 'DIFFERENCES')} from QEMU’s model`,
  )
  const [first] = findings
  if (first !== undefined) {
    const { access, iova, sid, hardware, walker } = first
    lines.push(`    first: ${access} of ${iova} by StreamID 0x${sid.toString(16)}`)
    lines.push(`      QEMU    ${hardware}`, `      server  ${walker}`)
  }
  for (const { difference, section, count } of explained) lines.push(`    known ×${count}: ${difference} (${section})`)
  return lines
}

function commandLines(commands: readonly CommandCount[] = []): string[] {
  const sum = (what: 'kept' | 'rewritten' | 'dropped' | 'own') => commands.reduce((n, count) => n + count[what], 0)
  const [kept, rewritten, dropped, own] = [sum('kept'), sum('rewritten'), sum('dropped'), sum('own')]
  if (kept + rewritten + dropped + own === 0) return []
  const host = `${grouped(kept)} kept, ${grouped(rewritten)} rewritten, ${grouped(dropped)} dropped`
  return [`  ${counted(kept + rewritten + dropped, 'command')} of the host: ${host}; ${grouped(own)} of the hypervisor`]
}

/** Whether devices are isolated, and what speaks against it; nothing where no policy of this run decided. */
function isolationLines({ isolated, refusals = [], untranslated = [], guardFaults, until }: Report): string[] {
  if (typeof isolated !== 'boolean') return []
  const short = typeof until === 'string' && until !== 'nested' ? `, --until ${until} has no second stage` : ''
  const lines = [isolated ? '  devices are isolated' : `  devices are NOT isolated${short}`]
  for (const { smmu, refusal } of refusals as readonly { readonly smmu: number; readonly refusal: string }[]) {
    lines.push(`    SMMU ${smmu}: ${refusal}`)
  }
  for (const { name, model, why } of untranslated as readonly UntranslatedMaster[]) {
    lines.push(`    not behind the SMMU: ${name} (${model}): ${why}`)
  }
  const { total = 0 } = (guardFaults ?? {}) as { readonly total?: number }
  if (total > 0) lines.push(`    ${counted(total, 'access', 'accesses')} of guarded memory by vCPUs, stopped`)
  return lines
}

/** As the guest told them. */
const numbersOf = <K extends string>(told: Readonly<Record<K, unknown>>): Record<K, number> =>
  Object.fromEntries(Object.entries(told).map(([name, value]) => [name, Number(value)])) as Record<K, number>

function attackLines({ attacks, secretChanged, storm }: AttackReport): string[] {
  const lines = ['  attacks on a protected VM, EL2 and the server']
  for (const { who, what, target, address, result, stoppedBy, mustStop } of attacks) {
    const stopped = stoppedBy ?? (mustStop ? 'NOTHING' : 'nothing, as it should be')
    const attack = `${who.toUpperCase()} ${what}`.padEnd(9)
    lines.push(`    ${attack} ${target.padEnd(10)} ${address.padEnd(11)} ${result.padEnd(15)} stopped by ${stopped}`)
  }
  if (secretChanged !== null)
    lines.push(
      `    the VM's secret: ${secretChanged === 0 ? 'unchanged' : `${counted(secretChanged, 'WORD', 'WORDS')} CHANGED`}`,
    )
  if (storm !== null) {
    const { vms, attempts, secretsRead, secretsChanged } = numbersOf(storm)
    lines.push(
      `    ${counted(vms, 'VM')} more, ${counted(attempts, 'DMA attempt')}: ${counted(secretsRead, 'secret')} read, ${grouped(secretsChanged)} changed`,
    )
  }
  return lines
}

export function oracleLines({
  unjudged,
  samples,
  wholes,
  sampleUs,
  vmPages,
  violations,
  more,
}: OracleReport): string[] {
  if (unjudged !== undefined) return [`  oracle: NOTHING WAS JUDGED: ${unjudged}`]
  const cost = samples === 0 ? '' : ` (p50 ${micros(sampleUs.p50)}, p99 ${tenths(sampleUs.p99)})`
  const looked = `${counted(samples, 'sample')}${cost}, all of it ${counted(wholes, 'time')}`
  const lent = vmPages === 0 ? '' : `, ${counted(vmPages, 'page')} of VMs`
  if (violations.length === 0) return [`  oracle: nothing is reached that must not be: ${looked}${lent}`]
  return [
    `  oracle: ${counted(violations.length + more, 'VIOLATION', 'VIOLATIONS')}: ${looked}${lent}`,
    ...violations.slice(0, 5).map(({ message }) => `    ${message}`),
  ]
}

/** Why there is no agreement, and no problem either. */
const NOTHING_TO_COMPARE = 'EL2 keeps no tables for its host, or no device has a second stage'

export function el2Lines({ changes, serverUs, checks, agreement, problem, shared }: El2Report): string[] {
  const lines = [
    `  EL2 changed its host's tables ${counted(changes, 'time')}: p50 ${micros(serverUs.p50)} each, p99 ${tenths(serverUs.p99)}`,
    ...sharedLines(shared),
  ]
  if (problem !== undefined) lines.push(`    SMMU and EL2 CANNOT BE COMPARED: ${problem}`)
  else if (agreement === null) lines.push(`    SMMU and EL2 were NOT compared: ${NOTHING_TO_COMPARE}`)
  if (agreement === null) return lines
  const { pages, kept, untouched, wrong, disagreements } = agreement
  if (wrong === 0) {
    const before = checks === 0 ? '' : `, and ${counted(checks, 'time')} before the end`
    const rest = untouched === 0 ? '' : `, ${grouped(untouched)} not mapped yet`
    lines.push(
      `    SMMU and EL2 agree (${counted(pages, 'page')} checked, ${grouped(kept)} of them kept from the host${rest}${before})`,
    )
  } else {
    lines.push(`    SMMU and EL2 DO NOT AGREE on ${grouped(wrong)} of ${counted(pages, 'page')}`)
    lines.push(...disagreements.slice(0, 5).map(found => `      ${describeDisagreement(found)}`))
  }
  return lines
}

/** Only a server that translates knows what devices asked for. */
function sharedLines(shared: El2Report['shared']): string[] {
  if (shared === undefined || shared.translations === 0) return []
  const { problems, translations, untouched } = shared
  return [
    `    walked by the SMMU itself, EL2's tables would have failed ${grouped(untouched)} of ${counted(translations, 'translation')}: pages that EL2 had not mapped yet`,
    ...problems.map(problem => `      and they cannot be walked: ${problem}`),
  ]
}

function acpiLines({ smmus, mappings, problems }: AcpiReport): string[] {
  if (problems.length > 0) return problems.map(problem => `  ACPI    ${problem}`)
  return [
    `  ACPI    the IORT has the machine's ${counted(smmus.length, 'SMMU')}, in ${counted(mappings.length, 'mapping')} of StreamIDs`,
  ]
}

/** A run with known defects says nothing about the policy as it is. */
export const quirkLines = (policy: string, quirks: readonly string[]): string[] => [
  `  WITH ${quirks.length === 1 ? 'A KNOWN DEFECT' : 'KNOWN DEFECTS'} (--quirk): this is not ${policy} as it is`,
  ...quirks.map(quirk => `    ${quirk}`),
]

const RAM = {
  mapped: 'mapped',
  file: 'read and written by system calls',
  wire: 'read and written through the connection',
}

export function transportLine({ frames, ram, reason }: TransportUse): string {
  const why = reason === undefined ? '' : ` (no ring: ${reason})`
  return `  transport ${frames}${why}, guest RAM ${RAM[ram]}`
}

const execLine = ({ command, code }: NonNullable<Report['exec']>): string =>
  `  ${code === 0 ? 'ok    ' : 'FAILED'} ${command.slice(0, 100)}: ${code === null ? 'the machine ended first' : `exit code ${code}`}`

function successorLine({ start, kernel, bootMs, vmcore }: SuccessorReport): string {
  const how = start === 'kexec' ? 'by kexec' : 'after a panic'
  if (kernel === null) return `  ${how}: NO SUCCESSOR reached its userspace`
  const core = vmcore === undefined ? '' : `, ${mib(vmcore)} of the first kernel’s memory in /proc/vmcore`
  return `  ${how}: kernel ${kernel}, userspace after ${seconds(bootMs ?? 0)} more${core}`
}

/** The report for people, on standard error, so that the guest's console on standard output stays clean. */
export function printSummary(run: Report): void {
  const lines = ['', `smmu-cosim: ${run.outcome}${run.message === undefined ? '' : `: ${run.message}`}`]
  const userspace = run.bootMs === null ? 'userspace never reached' : `userspace after ${seconds(run.bootMs)}`
  const boot = run.initrd === undefined ? userspace : `initramfs ${run.initrd}`
  if (run.quirks !== undefined) lines.push(...quirkLines(run.policy, run.quirks))
  if (run.blocks === true) {
    const level = run.bbm === undefined ? '' : `, BBM level ${run.bbm} at most`
    lines.push(`  RAM in blocks (--blocks${level})`)
  }
  if (run.power !== undefined) lines.push(`  SMMUs that can be switched off (--power ${run.power})`)
  if (run.stage2 !== undefined)
    lines.push(`  EL2's tables are the second stage (--stage2 shared --populate ${run.populate ?? 'ahead'})`)
  lines.push(`  policy ${run.policy}, kernel ${run.kernel}, ${boot}, ${seconds(run.wallMs)} in all`)
  lines.push(`  ${qemuText(run)}`)
  if (run.successor !== undefined) lines.push(successorLine(run.successor))
  const { traps } = run
  if (traps !== null && traps.total > 0) {
    const { latencyUs: q, serverUs: s } = traps
    const { total, predicted, reads, writes } = traps
    const byQemu = predicted === 0 ? '' : `, of which ${grouped(predicted)} answered by QEMU`
    const both = `${counted(reads, 'read')}, ${counted(writes, 'write')}`
    lines.push(`  ${counted(total, 'access', 'accesses')}${byQemu}: ${both}`)
    if (traps.bySmmu.length > 1) lines.push(...traps.bySmmu.map(smmu => `    ${describeSmmu(smmu)}`))
    lines.push(`    as QEMU saw them  ${quantiles(q)}`, `    in the server     ${quantiles(s)}`)
    for (const { register, reads, writes } of traps.byRegister.slice(0, 8)) {
      lines.push(`    ${register.padEnd(18)} ${grouped(reads).padStart(9)} reads ${grouped(writes).padStart(9)} writes`)
    }
  }
  if (run.transport !== undefined) lines.push(transportLine(run.transport))
  lines.push(...commandLines(run.commands as readonly CommandCount[] | undefined))
  for (const { code, section, count, expected, meaning } of (run.warnings ?? []) as WarningSummary[]) {
    lines.push(`  ${expected ? 'expected' : 'WARNING '} ${code} ×${count} (${section}): ${meaning}`)
  }
  lines.push(...isolationLines(run))
  const { rules: faults = [], firings = [] } = (run.faults ?? {}) as Partial<FaultStatus>
  for (const { rule, matches, fired } of faults) {
    const first = firings.find(firing => firing.rule === rule)
    const what =
      first === undefined ? counted(matches, 'match', 'matches') : `first at trap ${first.trap}: ${first.what}`
    lines.push(`  fault   ${rule} fired ${counted(fired, 'time')} (${what})`)
  }
  if (run.exec !== undefined) lines.push(execLine(run.exec))
  const reported = run.workload.some(({ bytes }) => bytes > 0)
  for (const { device, operation, bytes, ok, error, ms, passes, note, successor } of reported ? run.workload : []) {
    const what = `${device} ${operation}`.padEnd(18)
    const often =
      passes === undefined ? '' : `, ${counted(passes, 'whole pass', 'whole passes')}, all devices at a time`
    const took = !ms ? '' : ` in ${seconds(ms)}`
    const how = ok ? `${mib(bytes)}${took}${often}` : (error ?? '')
    lines.push(
      `  ${ok ? 'ok    ' : 'FAILED'} ${what} ${how}${successor ? ', by the successor' : ''}${note ? ` (${note})` : ''}`,
    )
  }
  for (const { device, reads, ms } of run.bench ?? []) {
    lines.push(`  bench  ${device.padEnd(18)} ${counted(reads, 'read')}, ${micros((ms / reads) * 1000)} each`)
  }
  for (const { name, count, ms } of run.timed ?? []) {
    lines.push(`  timed  ${name.padEnd(18)} ${grouped(count)} in ${seconds(ms)}`)
  }
  if (run.acpi !== undefined) lines.push(...acpiLines(run.acpi))
  if (run.attacks !== undefined) lines.push(...attackLines(run.attacks))
  if (run.oracle !== undefined) lines.push(...oracleLines(run.oracle))
  if (run.el2 !== undefined) lines.push(...el2Lines(run.el2))
  if (run.translate !== undefined) lines.push(...translateLines(run.translate as TranslateReport))
  const { recording } = run
  if (recording !== undefined) {
    const { path, records, bytes, lost, refused, error } = recording
    const missing =
      lost + refused > 0 ? `, ${grouped(lost + refused)} LOST${error === undefined ? '' : `: ${error}`}` : ''
    lines.push(`  trace   ${path} (${counted(records, 'record')}, ${mib(bytes)}${missing})`)
  }
  lines.push(`  console ${run.console}`)
  if (Array.isArray(run.oops)) lines.push('', ...run.oops)
  report(lines)
}
