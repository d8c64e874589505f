// SPDX-License-Identifier: Apache-2.0
import { family, type Sample } from '../fleet/exposition.ts'
import type { MachineManager } from './machineManager.ts'
import { PHASES, STATES } from './schemas/lifecycle.ts'
import type { Subscriptions } from './subscriptions.ts'

const QUANTILES = [
  ['0.5', 'p50'],
  ['0.9', 'p90'],
  ['0.99', 'p99'],
] as const

/** Prometheus text exposition. */
export function metrics(manager: MachineManager, subscriptions: Subscriptions): string {
  const counts = manager.counters()
  const { state, phase, run, notRecorded } = manager.status()
  const counter = (name: string, help: string, samples: readonly Sample[]) =>
    family(`smmu_cosim_${name}`, 'counter', help, samples)
  const gauge = (name: string, help: string, samples: readonly Sample[]) =>
    family(`smmu_cosim_${name}`, 'gauge', help, samples)
  const quantiles = (name: string, help: string, values: { p50: number; p90: number; p99: number }) =>
    family(
      `smmu_cosim_${name}`,
      'summary',
      help,
      QUANTILES.map(([quantile, key]) => [{ quantile }, values[key] / 1e6]),
    )
  return [
    gauge(
      'machine_state',
      '1 for the state that the machine is in',
      STATES.map(name => [{ state: name }, name === state ? 1 : 0]),
    ),
    gauge('boot_phase', 'How far the guest has come: 0 off to 5 done', [[{}, PHASES.indexOf(phase)]]),
    counter('machines_total', 'Machines started', [[{}, run]]),
    counter(
      'traps_total',
      'Register accesses of the guest',
      counts.registers.flatMap(({ register, reads, writes }): Sample[] => [
        [{ register, access: 'read' }, reads],
        [{ register, access: 'write' }, writes],
      ]),
    ),
    counter(
      'smmu_traps_total',
      'Register accesses of the guest by SMMU',
      counts.smmus.flatMap(({ smmu, reads, writes }): Sample[] => [
        [{ smmu: `${smmu}`, access: 'read' }, reads],
        [{ smmu: `${smmu}`, access: 'write' }, writes],
      ]),
    ),
    counter(
      'smmu_predicted_reads_total',
      'Reads of the guest that QEMU answered by itself, by SMMU',
      counts.smmus.map(({ smmu, predicted }): Sample => [{ smmu: `${smmu}` }, predicted]),
    ),
    counter('traps_aborted_total', 'Accesses that ended in an abort', [[{}, counts.aborted]]),
    quantiles('trap_round_trip_seconds', 'Round trip of a trap as QEMU measured it', counts.latencyUs),
    quantiles('trap_server_seconds', "The server's own time per trap", counts.serverUs),
    counter(
      'commands_total',
      'Commands by what became of them',
      counts.commands.flatMap(({ command, kept, rewritten, dropped, own }): Sample[] => [
        [{ command, verdict: 'kept' }, kept],
        [{ command, verdict: 'rewritten' }, rewritten],
        [{ command, verdict: 'dropped' }, dropped],
        [{ command, verdict: 'own' }, own],
      ]),
    ),
    counter(
      'smmu_commands_total',
      'Commands by SMMU, and by what became of them',
      counts.smmus.flatMap(({ smmu, commands }) =>
        Object.entries(commands).map(([verdict, count]): Sample => [{ smmu: `${smmu}`, verdict }, count]),
      ),
    ),
    counter(
      'hyp_warnings_total',
      'Hyp warnings',
      counts.warnings.map(({ code, count }) => [{ code }, count]),
    ),
    counter(
      'smmu_events_total',
      'Event records of the hardware',
      counts.events.map(({ name, count }) => [{ event: name }, count]),
    ),
    counter('hardware_accesses_total', 'Accesses of the hypervisor to the hardware', [
      [{ access: 'read' }, counts.hardwareReads],
      [{ access: 'write' }, counts.hardwareWrites],
    ]),
    counter('guard_faults_total', 'CPU accesses to guarded memory', [[{}, counts.guardFaults]]),
    counter(
      'power_requests_total',
      'Requests to switch an SMMU, by what became of them',
      Object.entries(counts.power).map(([result, count]): Sample => [{ result }, count]),
    ),
    counter('resets_total', 'Resets of the machine', [[{}, counts.resets]]),
    counter('breakpoint_hits_total', 'Traps that were held', [[{}, counts.breakpoints]]),
    counter('trace_records_lost_total', 'Records that the full ring lost', [[{}, counts.lost]]),
    counter('trace_records_refused_total', 'Records that the disk refused', [[{}, counts.refused]]),
    gauge('recording_refused', '1 while the machine is not recorded although it should be', [
      [{}, notRecorded === null ? 0 : 1],
    ]),
    gauge('stream_clients', 'WebSocket clients', [[{}, subscriptions.stats.clients]]),
    counter('stream_items_sent_total', 'Items sent to clients', [[{}, subscriptions.stats.sent]]),
    counter('stream_items_dropped_total', 'Items that slow clients missed', [[{}, subscriptions.stats.dropped]]),
    gauge('process_resident_memory_bytes', 'Of the server', [[{}, process.memoryUsage.rss()]]),
  ].join('')
}
