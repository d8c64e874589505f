// SPDX-License-Identifier: Apache-2.0
/** What a test asks of a machine, and the machine that comes of it. */
import { resolve } from 'node:path'
import type { SavedMachine } from '../control/session.ts'
import type { CheckContext } from '../faults/check.ts'
import { expectRules, needsServer, planOf } from '../faults/plan.ts'
import type { FaultPlan, FaultRule } from '../faults/rule.ts'
import { POLICY_NAMES, policyFile } from '../policy/load.ts'
import type { PolicyOptions, SeriesStep } from '../policy/policy.ts'
import { kernelArgs, type MachineFiles, machineFiles } from '../run/files.ts'
import { commandLine, DEFAULTS, type RunOptions } from '../run/options.ts'
import { policyTypeErrors } from '../run/policyTypes.ts'
import type { TranslateMode } from '../translate/translator.ts'

/** Devices that a test may ask for, besides `virtio-blk`, `virtio-net` and `e1000e`, which every machine has. */
export const DEVICES = ['edu', 'nvme'] as const
export type DeviceName = (typeof DEVICES)[number]

export interface MachineOptions {
  /** `6.1`, `6.12`, `7.3`, `latest`: Debian's; or an arm64 Image, or the folder of a kernel build. Default `6.12`. */
  readonly kernel?: string
  /** Folder with the modules of an Image; those of a build, and beside an Image, are found. */
  readonly modules?: string
  /**
   * What it has besides `virtio-blk`, `virtio-net` and `e1000e`. `edu`: a DMA master that the test drives; `nvme`: plugged in
   * once the machine runs. Default `['edu']`.
   */
  readonly devices?: readonly DeviceName[]
  /** A policy's name, or a file with one of your own. Default `pkvm`. */
  readonly policy?: string
  /** Prefix of the series that is emulated. Default `nested`, all of it. */
  readonly until?: SeriesStep
  readonly granule?: PolicyOptions['granule']
  readonly blocks?: boolean
  readonly bbm?: PolicyOptions['bbm']
  readonly ats?: boolean
  /** Known defects of the posted series, by name: `smmu-cosim ctl info` lists them. */
  readonly quirks?: readonly string[]
  /** Faults to be injected from the start: names of the catalogue, files of rules, or rules. */
  readonly faults?: readonly (string | FaultRule)[]
  /** Who translates for devices: QEMU's model, the server, or both compared. Default `hardware`. */
  readonly translate?: TranslateMode
  /** vCPUs. Default 1. */
  readonly smp?: number
  /** Guest RAM. Default `512M`. */
  readonly memory?: string
  /** Added to the kernel's command line. */
  readonly append?: string
  /** Boots from the beginning, instead of from a snapshot: what happens in the boot is part of the test. */
  readonly fresh?: boolean
  /** Of all that is random: bytes of the disks, draws of faults. Default: of `smmu-cosim test --seed`, or 1. */
  readonly seed?: number
}

/** The seed of this run of the tests. */
export const SEED_VARIABLE = 'SMMU_COSIM_SEED'

export const defaultSeed = (): number => Number(process.env[SEED_VARIABLE] ?? 1)

/** Set: policies of one's own run also with type errors. */
export const NO_TYPE_CHECK_VARIABLE = 'SMMU_COSIM_NO_TYPE_CHECK'

/** @throws Error with `file:line:column` of what is wrong */
async function expectTypes(policy: string, signal: AbortSignal): Promise<void> {
  const errors = await policyTypeErrors(policyFile(policy), signal)
  if (errors.length > 0)
    throw new Error(`policy ${policy}: types do not fit (--no-type-check runs it all the same)\n${errors.join('\n')}`)
}

const MEMORY = '512M'
/** Less, so that a test does not wait: seconds that the guest waits for a disk. */
const PATIENCE_S = 6
/** Where `nvme` is plugged in. */
export const SLOT = 'root-port'

/** A machine that can be started, or saved. */
export interface Plan {
  readonly files: MachineFiles
  readonly seed: number
  readonly devices: readonly DeviceName[]
  /** It starts from a snapshot. */
  readonly saved: boolean
  /** What is saved with it: JSON. */
  readonly description: unknown
  run(folder: string, restore?: SavedMachine): RunOptions
}

/** @throws Error for what does not fit, or cannot be made ready */
export async function plan(options: MachineOptions, signal: AbortSignal): Promise<Plan> {
  const { kernel = DEFAULTS.kernel, devices = ['edu'], policy = DEFAULTS.policy, until = DEFAULTS.until } = options
  const { memory = MEMORY, smp = DEFAULTS.smp, translate = 'hardware', modules, seed = defaultSeed() } = options
  const { granule = DEFAULTS.granule, blocks, bbm, ats = false, quirks = [] } = options
  for (const name of devices)
    if (!DEVICES.includes(name)) throw new Error(`no device "${name}": there are ${DEVICES.join(', ')}`)
  const ours = POLICY_NAMES.includes(policy)
  if (!ours && process.env[NO_TYPE_CHECK_VARIABLE] === undefined) await expectTypes(policy, signal)
  const faults = await faultPlan(options.faults, seed, { policy, until, translate }, signal)
  const files = await machineFiles({ kernel, agent: true, ...(modules !== undefined && { modules }) }, { signal })
  const append = [
    `cosim.devices=virtio-blk cosim.patience=${PATIENCE_S}`,
    // So that a hostile host's user space can write to the SMMU, whose frame its driver has.
    'iomem=relaxed',
    ...(options.append === undefined ? [] : [options.append]),
  ].join(' ')
  const qemuArgs = [
    ...kernelArgs(files.kernel),
    '-no-reboot',
    ...(devices.includes('edu') ? ['-device', 'edu,id=edu,dma_mask=0xffffffffffffffff'] : []),
    ...(devices.includes('nvme') ? ['-device', `pcie-root-port,id=${SLOT},chassis=1`] : []),
  ]
  const policyOptions = {
    until,
    granule,
    requireIsolation: false,
    ats,
    ...(blocks && { blocks }),
    ...(bbm !== undefined && { bbm }),
    quirks,
  }
  const what = { memory, smp, carveout: DEFAULTS.carveout, qemuArgs }
  // The saved command line has the seed in it, which only decides what the guest would do by itself.
  const task = commandLine({ run: 'remote', bench: 0, append })
  return {
    files,
    seed,
    devices,
    // The state of a policy of the user's own goes with its code, and a fault may act during boot.
    saved: options.fresh !== true && ours,
    description: { ...what, policy, policyOptions, append },
    run: (folder, restore) => ({
      ...what,
      ramDir: process.env.SMMU_COSIM_RAM_DIR ?? DEFAULTS.ramDir,
      sandbox: true,
      agent: true,
      nvme: false,
      commandLine: task,
      workload: { seed: `test-${seed}`, size: { disk: 1 << 20, file: 256 << 10 } },
      policy: {
        name: ours ? policy : resolve(policy),
        options: policyOptions,
        panicOnWarn: false,
        oracle: true,
        translate: faults !== undefined && needsServer(faults.rules) ? 'server' : translate,
        ...(faults && { faults }),
      },
      ...(restore && { restore }),
      folder,
    }),
  }
}

/** @throws Error when rules do not fit the machine */
async function faultPlan(
  faults: MachineOptions['faults'] = [],
  seed: number,
  context: CheckContext,
  signal: AbortSignal,
): Promise<FaultPlan | undefined> {
  if (faults.length === 0) return undefined
  const names = faults.filter(fault => typeof fault === 'string')
  const own = faults.filter(fault => typeof fault !== 'string')
  const named = names.length === 0 ? [] : (await planOf(names, seed, context, signal)).rules
  const rules = [...named, ...own]
  expectRules(rules, {
    ...context,
    ...(needsServer(rules) && context.translate === 'hardware' && { translate: 'server' }),
  })
  return { rules, seed }
}
