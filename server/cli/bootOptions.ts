// SPDX-License-Identifier: Apache-2.0
/** The options of `boot` and `dev`. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { enums, MAX_FRAMES } from '../../protocol/messages.ts'
import { DEFAULT_QEMU, QEMU_VERSIONS } from '../../scripts/setup/index.ts'
import { DEFAULT_HOST } from '../api/schemas/request.ts'
import { POPULATE } from '../attack/setup.ts'
import { DEVICE_NAMES, type DeviceName, inOrder, isDevice } from '../machine/devices.ts'
import { MAX_COMMAND } from '../machine/guestAgent.ts'
import { MAX_SLOTS } from '../machine/hotplug.ts'
import { MAX_SMMUS, type SharedFolder } from '../machine/qemu.ts'
import { parseSize } from '../machine/scratch.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import {
  BBM_LEVELS,
  type BbmLevel,
  GRANULES,
  POPULATE_MODES,
  POWER_MODES,
  type PopulateMode,
  type PowerMode,
  SERIES_STEPS,
  type SeriesStep,
  STAGE2_MODES,
  type Stage2Mode,
} from '../policy/policy.ts'
import { EL2_KERNEL, EL2_MODES, type El2Mode } from '../run/el2.ts'
import { KERNELS } from '../run/files.ts'
import { DEFAULTS } from '../run/options.ts'
import { STALL_SECONDS } from '../run/stall.ts'
import { SUCCESSORS, type SuccessorStart } from '../run/successor.ts'
import { SYMBOL_FILES } from '../trace/symbols.ts'
import type { TranslateMode } from '../translate/translator.ts'
import { TRANSPORTS, type Transport } from '../trap/messages.ts'
import { port, within } from './numbers.ts'
import { faultNames, folder, inputFile, outputFile, qemuSource, sharedFolder, whichQemu } from './paths.ts'
import { noTypeCheck } from './policyCheck.ts'

/** What `boot` was asked for; every field is an option of the command line. */
export interface BootOptions {
  readonly policy: string
  readonly until: SeriesStep
  readonly granule: string
  readonly blocks?: boolean
  readonly bbm?: BbmLevel
  readonly power?: PowerMode
  readonly stage2?: Stage2Mode
  readonly populate?: PopulateMode
  readonly requireIsolation?: boolean
  readonly ats?: boolean
  /** Of the policy. */
  readonly quirk: readonly string[]
  /** Absent: the usual one for what runs at EL2. */
  readonly kernel?: string
  /** Of a kernel of one's own. */
  readonly modules?: string
  /** Of the kernel. */
  readonly symbols?: string
  /** Port, or true for a Unix socket. */
  readonly gdb?: true | number
  /** Return addresses that are recorded with each trap, or true for as many as there may be. */
  readonly callStacks?: true | number
  readonly initrd?: string
  /** Debian's, or a file. */
  readonly firmware?: true | string
  /** A version of QEMU, a binary, or a folder with source. */
  readonly qemu?: string
  readonly append?: string
  readonly memory: string
  readonly smp: number
  readonly smmus: number
  readonly carveout: string
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
  /** Of a policy that is a file. */
  readonly typeCheck: boolean
  readonly interactive?: boolean
  /** A command for the guest, instead of the workload. */
  readonly exec?: string
  readonly share?: SharedFolder
  /** Port, or true for the usual one. */
  readonly dashboard?: true | number
  readonly dashboardHost: string
  readonly baseline?: boolean
  readonly reboots: number
  /** The guest's kernel starts a successor. */
  readonly kexec?: SuccessorStart
  readonly bench: number
  /** Seconds in which all devices are used at a time. */
  readonly load: number
  readonly timeout: number
  readonly report?: string
  readonly translate: TranslateMode
  readonly panicOnWarn?: boolean
  readonly faithful?: boolean
  /** A file, or false for none; absent: in the run's folder. */
  readonly record?: string | false
  readonly recordLimit: string
  readonly requireRecording?: boolean
  readonly quiet?: boolean
  /** Beside the usual ones. */
  readonly device: readonly DeviceName[]
  /** For devices that come later. */
  readonly slots: number
  readonly qemuArg: readonly string[]
  /** Seconds that the machine waits for a lost server. */
  readonly reconnect: number
  /** Files of rules, and names in the catalogue. */
  readonly faults?: readonly string[]
  readonly seed: number
  /** Socket of a server that runs elsewhere. */
  readonly server?: string
  /** What QEMU and a server that runs elsewhere have to know. */
  readonly tokenFile?: string
  readonly el2: El2Mode
  /** Protected VMs that are created and destroyed under attack. */
  readonly storm: number
  /** Hold what devices reach against who owns the pages, while the machine runs. */
  readonly oracle?: boolean
}

/** Options for the server of a run: there is none, or somebody else gave it its own. */
export const OF_THE_SERVER: readonly string[] = [
  'policy',
  'until',
  'granule',
  'quirk',
  'requireIsolation',
  'ats',
  'blocks',
  'bbm',
  'power',
  'stage2',
  'populate',
  'panicOnWarn',
  'oracle',
  'faithful',
  'translate',
  'faults',
  'requireRecording',
  'callStacks',
]

/** Of every command that starts machines. */
export const noSandbox = (): Option =>
  new Option(
    '--no-sandbox',
    'do not confine QEMU (one built without seccomp needs this), nor the server of a dashboard',
  )

/** Of every command that starts machines. */
export const qemuOption = (): Option =>
  new Option(
    '--qemu <version|file>',
    `${QEMU_VERSIONS.join(' or ')}, which set-up fetches and builds, or a qemu-system-aarch64 with the patches, built elsewhere (default: ${DEFAULT_QEMU})`,
  )
    .argParser(whichQemu)
    .env('SMMU_COSIM_QEMU')

/** Another way to say `--qemu`. */
class QemuSourceOption extends Option {
  override attributeName(): string {
    return 'qemu'
  }
}

/** Of every command that starts machines. */
export const qemuSourceOption = (): Option =>
  new QemuSourceOption(
    '--qemu-source <dir>',
    'a source tree of QEMU: a copy of it is built with the patches for its version on top',
  ).argParser(qemuSource)

/** Of every command that starts machines. */
export const ramDirOption = (): Option =>
  new Option(
    '--ram-dir <dir>',
    'memory-backed folder for the file of guest RAM; memory: it is in none, and the server maps it',
  )
    .argParser(dir => (dir === DEFAULTS.ramDir ? dir : folder(dir)))
    .default(DEFAULTS.ramDir)
    .env('SMMU_COSIM_RAM_DIR')

/** Of every command that serves machines. */
export const transportOption = (): Option =>
  new Option(
    '--transport <how>',
    'what traps travel through; ring: memory shared with QEMU, or not at all; socket: no shared memory, not of guest RAM either; auto: what both ends have',
  )
    .choices(TRANSPORTS)
    .env('SMMU_COSIM_TRANSPORT')
    .default(DEFAULTS.transport)

/** Of every command that boots kernels of one's own. */
export const modulesOption = (): Option =>
  new Option(
    '--modules <dir>',
    'modules of that Image: lib/modules/RELEASE, or what they were installed to; those of a build, and beside an Image, are found',
  ).argParser(folder)

/** Of every command that starts machines. */
export const initrdOption = (about = "initramfs of your own instead of the workload's"): Option =>
  new Option('--initrd <file>', about).argParser(inputFile)

/** Of every command that starts machines. */
export const appendOption = (): Option => new Option('--append <text>', 'added to the kernel command line')

/** Of every command that starts machines. */
export const qemuArgOption = (): Option =>
  new Option('--qemu-arg <arg>', 'added to QEMU’s command line; may be repeated').argParser(collect).default([], '')

/** Of every command that boots machines one by one. */
export const memoryOption = (): Option =>
  new Option('--memory <size>', 'guest RAM, e.g. 1G').argParser(size).default(DEFAULTS.memory)

/** Of both ends of a connection between machines. */
export const tokenFile = (): Option =>
  new Option(
    '--token-file <file>',
    'a token that QEMU and the server have to know; needed to listen on any address but loopback',
  )

/** With a kernel that drives the SMMU at EL2, unless another one is asked for: nobody decides in its place. */
export const policyOf = ({ policy, el2 }: Pick<BootOptions, 'policy' | 'el2'>): string =>
  el2 === 'kernel' && policy === DEFAULTS.policy ? 'observe' : policy

/** The options of a machine. */
export function bootOptions(command: Command, reconnect: number): Command {
  // As a conflict of options it would be one of SMMU_COSIM_TRANSPORT as well, which is for all runs.
  command.hook('preAction', () => {
    if (command.opts<BootOptions>().baseline && command.getOptionValueSource('transport') === 'cli')
      command.error("error: option '--baseline' cannot be used with option '--transport <how>'")
  })
  return command
    .option('--policy <name|file>', `${POLICY_NAMES.join(', ')}, or a file with a policy of your own`, DEFAULTS.policy)
    .addOption(
      new Option('--until <stage>', 'prefix of the series that is emulated')
        .choices(SERIES_STEPS)
        .default(DEFAULTS.until),
    )
    .addOption(
      new Option('--granule <bytes>', 'page size of the stage-2 idmap')
        .choices(GRANULES.map(String))
        .default(String(DEFAULTS.granule)),
    )
    .addOption(blocksOption())
    .addOption(bbmOption())
    .addOption(powerOption())
    .addOption(
      new Option(
        '--stage2 <whose>',
        'shared: with --el2 pkvm, EL2’s own tables for its host are the second stage of devices, not a copy (default: own)',
      ).choices(STAGE2_MODES),
    )
    .addOption(
      new Option(
        '--populate <when>',
        'with --stage2 shared: what EL2 has not mapped yet is mapped ahead, waited for by stalls, or never, and faults (default: ahead)',
      ).choices(POPULATE_MODES),
    )
    .addOption(quirkOption())
    .option(
      '--require-isolation',
      'a machine whose devices cannot all be isolated is stopped instead of being reported',
    )
    .option('--ats', 'let the host use PCIe ATS and PRI: trusts devices that have them; QEMU’s SMMU has neither')
    .option(
      '--kernel <series|file|dir>',
      `Debian's ${KERNELS.join(', ')}; an arm64 Image (or Image.gz), or the folder of a kernel build (default: ${DEFAULTS.kernel}, with --el2 pkvm ${EL2_KERNEL})`,
    )
    .addOption(modulesOption())
    .option(
      '--symbols <file>',
      `symbols of the kernel: ${SYMBOL_FILES} (default: the vmlinux in the folder of its build, or the image)`,
      inputFile,
    )
    .option(
      '--gdb [port]',
      'let gdb attach to the guest, also while a trap is held: at a Unix socket, or a port of the loopback interface; no time limit then',
      within(1, 65_535),
    )
    .option(
      '--call-stacks [depth]',
      `record with each trap who called the function that makes it (trace flame): so many return addresses, at most ${MAX_FRAMES}; every access traps then`,
      within(1, MAX_FRAMES),
    )
    .addOption(
      new Option(
        '--el2 <what>',
        'the guest runs as pKVM, starts a protected VM and attacks it by CPU and DMA; kernel: its EL2 drives the SMMU itself, and is watched',
      )
        .choices(EL2_MODES)
        .default('none'),
    )
    .option('--storm <n>', 'with --el2 pkvm: so many protected VMs more, under attack', within(0, 10_000), 0)
    .option(
      '--oracle',
      'as the machine runs, hold what devices reach against who owns the pages, by what was donated and reclaimed, and with --el2 by EL2’s own tables; stop where they must not',
    )
    .addOption(initrdOption())
    .option(
      '--firmware [file]',
      'UEFI, Debian’s or this image, starts the kernel, and describes the machine by ACPI',
      inputFile,
    )
    .addOption(qemuOption())
    .addOption(qemuSourceOption())
    .addOption(appendOption())
    .addOption(memoryOption())
    .option('--smp <n>', 'vCPUs, 1 to 64', within(1, 64), DEFAULTS.smp)
    .option(
      '--smmus <n>',
      `SMMUs, 1 to ${MAX_SMMUS}, each in front of a root complex of its own; the four devices are dealt out to them`,
      within(1, MAX_SMMUS),
      1,
    )
    .option(
      '--carveout <size>',
      'hypervisor memory at the top of guest RAM, a multiple of 2M; 0: none',
      carveout,
      DEFAULTS.carveout,
    )
    .addOption(ramDirOption())
    .addOption(transportOption())
    .addOption(noSandbox())
    .addOption(noTypeCheck())
    .addOption(
      new Option('--interactive', 'a shell in the guest instead of the workload (end it with exit)').conflicts([
        'reboots',
      ]),
    )
    .addOption(
      new Option(
        '--exec <command>',
        'run this in the guest, by /bin/sh, instead of the workload: its output is the output, its exit code the exit code',
      )
        .argParser(guestCommand)
        .conflicts(['interactive', 'reboots', 'bench', 'load', 'storm', 'initrd']),
    )
    .addOption(
      new Option(
        '--share <folder>',
        'a folder of the host at /share in the guest, by 9p behind the SMMU, to be read; FOLDER:rw: to be written as well',
      ).argParser(sharedFolder),
    )
    .option('--dashboard [port]', 'watch and steer the machine in a browser while it runs', port)
    .option('--dashboard-host <address>', 'address of the dashboard; any but loopback needs the token', DEFAULT_HOST)
    .addOption(
      new Option('--baseline', 'the same machine without the server, for comparison').conflicts([
        ...OF_THE_SERVER,
        'server',
        'reconnect',
      ]),
    )
    .option('--reboots <n>', 'reboots before the workload', within(0, 100), 0)
    .addOption(
      new Option(
        '--kexec [how]',
        'after the workload the guest starts the same kernel by kexec, and that does the workload again; kdump: by a panic under I/O',
      )
        .choices(SUCCESSORS)
        .preset('kexec')
        .conflicts(['interactive', 'reboots', 'exec', 'initrd']),
    )
    .option('--bench <n>', 'timed 4-KiB reads of each disk', within(0, 1_000_000), 0)
    .addOption(
      new Option(
        '--load <s>',
        'after the workload, all its devices at a time for so long, each byte checked; beside --timeout',
      )
        .argParser(within(0, 86_400))
        .default(0)
        .conflicts(['interactive', 'initrd']),
    )
    .option('--reconnect <s>', 'how long the machine waits for a lost server; 0: it ends', within(0, 86_400), reconnect)
    .option(
      '--timeout <s>',
      `time limit of the guest, which ends after ${STALL_SECONDS} s already when all it does is wait for the SMMU; 0: none`,
      within(0, 1_000_000),
      300,
    )
    .option('--report <file>', 'write the report as JSON', outputFile)
    .addOption(
      new Option('--translate <mode>', 'who translates for devices: QEMU’s model, the server, or both compared')
        .choices(Object.keys(enums.translateMode))
        .default('hardware'),
    )
    .option('--record <file>', 'where the run is recorded; by default in the runs folder', outputFile)
    .option('--no-record', 'do not record')
    .option(
      '--require-recording',
      'a run has not passed when records are missing: the disk was full, or not fast enough',
    )
    .option('--record-limit <size>', 'size limit of the recording; the middle of a longer one is left out', size, '2G')
    .option('--faults <file|name...>', 'inject these faults: files of rules, or names of the catalogue', faultNames)
    .option('--seed <n>', 'seed of everything random in faults', within(0, 0xffff_ffff), 1)
    .option('--faithful', 'every register access of the guest traps, and every hardware access is waited for')
    .option('--panic-on-warn', 'stop the machine at the first unexpected hyp warning')
    .option('--quiet', 'no guest console on the terminal')
    .addOption(deviceOption())
    .option(
      '--slots <n>',
      'free root ports, for devices that are plugged in while the machine runs (ctl device add)',
      within(0, MAX_SLOTS),
      0,
    )
    .addOption(qemuArgOption())
}

/** Of every command that chooses how RAM is mapped for devices. */
export const blocksOption = (): Option =>
  new Option('--blocks', 'RAM in the largest blocks of the stage-2 idmap, split at a donation and merged at a reclaim')

export const bbmOption = (): Option =>
  new Option(
    '--bbm <level>',
    'with --blocks: 0: break before make, 1: nT, 2: sizes change at once; not more than SMMU_IDR3.BBML says (default: that)',
  ).argParser(bbmLevel)

/** @throws InvalidArgumentError for what is no BBM level */
export function bbmLevel(text: string): BbmLevel {
  const level = BBM_LEVELS.find(known => String(known) === text)
  if (level === undefined) throw new InvalidArgumentError(`expected ${BBM_LEVELS.join(', ')}`)
  return level
}

export const powerOption = (): Option =>
  new Option(
    '--power <mode>',
    'SMMUs can be switched off and on (ctl power); reshadow: the host finds one that was reset; keep: it notices nothing',
  ).choices(POWER_MODES)

/** Of an attack: `any` of them, machine by machine. */
export const attackPowerOption = (): Option =>
  new Option('--power <mode>', 'the host has SMMUs switched off and on').choices([...POWER_MODES, 'any'])

/** Of an attack: EL2 there is made up, and needs no kernel. */
export const attackStage2Option = (): Option =>
  new Option(
    '--stage2 <whose>',
    "devices' second stage: the hypervisor's own, or shared: the tables that an EL2 keeps for its host",
  ).choices(STAGE2_MODES)

export const attackPopulateOption = (): Option =>
  new Option('--populate <when>', 'with --stage2 shared: mapped ahead, or never (default: either)').choices(POPULATE)

export const quirkOption = (): Option =>
  new Option('--quirk <name>', 'show a known defect (server/hypervisor/README.md, section 13); may be repeated')
    .argParser(collect)
    .default([], '')

/** Of every command that starts machines with a workload. */
export const deviceOption = (): Option =>
  new Option(
    '--device <name>',
    `one more device that the workload exercises, beside virtio-blk, nvme, virtio-net and e1000e: ${DEVICE_NAMES.join(', ')}; may be repeated`,
  )
    .argParser(devices)
    .default([], '')

/** @throws InvalidArgumentError */
function devices(name: string, before: readonly DeviceName[]): DeviceName[] {
  if (!isDevice(name)) throw new InvalidArgumentError(`The workload knows ${DEVICE_NAMES.join(', ')}`)
  return inOrder([...before, name])
}

/** @throws InvalidArgumentError for one that the agent does not take */
function guestCommand(text: string): string {
  if (Buffer.byteLength(text) > MAX_COMMAND) throw new InvalidArgumentError(`more than ${MAX_COMMAND} bytes`)
  return text
}

const collect = (value: string, before: readonly string[]): string[] => [...before, value]

/** Bytes of guest memory, as `1G`. @throws InvalidArgumentError */
export function size(text: string): string {
  try {
    parseSize(text)
    return text
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

export const carveout = (text: string): string => (text === '0' ? text : size(text))
