// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism, constants } from 'node:os'
import { promisify } from 'node:util'
import { INHERITED_RAM } from './fileMemory.ts'
import { slotArguments } from './hotplug.ts'

/** A disk image behind the SMMU. */
export interface Disk {
  readonly path: string
  readonly serial: string
}

/** A folder of the host for the guest. QEMU's 9p server follows no link, and so none out of it: links are the guest's to follow. */
export interface SharedFolder {
  readonly path: string
  readonly writable: boolean
}

/** What the machine is made of; every field ends up in QEMU's command line. */
export interface QemuOptions {
  readonly binary: string
  readonly kernel: string
  readonly initrd?: string
  /** Image of firmware, which starts the kernel; absent: QEMU does. */
  readonly firmware?: string
  readonly append: string
  /** QEMU's notation, e.g. `1G`. */
  readonly memory: string
  readonly smp: number
  /** Each in front of a root complex of its own, at most MAX_SMMUS; absent: one. */
  readonly smmus?: number
  /** Several SMMUs are devices, the first one as well: see `onlySmmuDevices`. */
  readonly smmuDevices?: boolean
  /** The file of guest RAM, mapped shared: a descriptor, which QEMU inherits, or a path. */
  readonly ramFile: number | string
  /** Where the server listens; absent: the unpatched behaviour, which is the baseline. */
  readonly cosim?: {
    /** Path of a Unix socket, or a host and its port. */
    readonly server: string | { readonly host: string; readonly port: number }
    /** Hypervisor memory in QEMU's notation, `0` for none. */
    readonly carveout: string
    /** File with the token that the server has to know; absent: any server will do. */
    readonly tokenFile?: string
    readonly properties?: readonly string[]
  }
  readonly virtioDisk?: Disk
  readonly nvmeDisk?: Disk
  readonly network: boolean
  /** Unix socket on which somebody listens for what the guest says on its second serial port; absent: it has only one. */
  readonly agentSocket?: string
  /** A folder of the host that the guest can mount by 9p, as `share`. */
  readonly share?: SharedFolder
  /** Root ports without a device, for those that come later; absent: none. */
  readonly slots?: number
  /** Words of further devices of the workload. */
  readonly devices?: readonly string[]
  readonly qmpSocket: string
  /** Where gdb can attach from the start, as QEMU's character devices are written; absent: nowhere. */
  readonly gdb?: string
  /** QEMU gives up what it does not need before the guest runs: see `SANDBOX`. */
  readonly sandbox: boolean
  readonly extra: readonly string[]
}

/**
 * System calls that QEMU is denied (-sandbox in qemu(1)): starting programs, changing its user, its priority or its affinity,
 * and those that no program should make any more. Its devices, user network and migration to a file work without.
 */
export const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'

/** Root complexes share bus numbers and memory windows evenly enough for so many. */
export const MAX_SMMUS = 4
/** Numbers of the root buses are so far apart. */
const BUSES = 64
/** How long QEMU may take to say its version, ms: it may be in another container. */
const VERSION_MS = 20_000

/** Name of the root bus of a complex. */
const rootBus = (complex: number): string => (complex === 0 ? 'pcie.0' : `pcie.${complex}`)

const smmuDevice = (complex: number): string[] => [
  '-device',
  `arm-smmuv3,id=smmu${complex},primary-bus=${rootBus(complex)},stage=nested`,
]

/** Expander bridges with an SMMU in front of each (qemu-patches: 0024). */
const moreSmmus = (smmus: number): string[][] =>
  Array.from({ length: smmus - 1 }, (_, i) => [
    ...['-device', `pxb-pcie,id=${rootBus(i + 1)},bus_nr=${(i + 1) * BUSES}`],
    ...smmuDevice(i + 1),
  ])

/**
 * Whether a QEMU has no SMMU of the machine's own beside those that are devices, as from 10.2 on. One that does not say its version
 * is taken for an older one.
 */
export async function onlySmmuDevices(binary: string): Promise<boolean> {
  const told = promisify(execFile)(binary, ['--version'], { timeout: VERSION_MS })
  const { stdout } = await told.catch(() => ({ stdout: '' }))
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(stdout) ?? []
  return Number(major) > 10 || (Number(major) === 10 && Number(minor) >= 2)
}

/** The four devices are dealt out to the root complexes; an expander bridge takes root ports only. */
const FOUR = ['virtio-blk', 'nvme', 'virtio-net', 'e1000e'] as const
/** Chassis numbers of their root ports; those of the workload's other devices are lower. */
const FIRST_CHASSIS = 8

/** What a device has in front of it, and the end of its own words. */
function place(name: (typeof FOUR)[number], smmus: number): { readonly ports: string[]; readonly bus: string } {
  if (smmus === 1) return { ports: [], bus: '' }
  const index = FOUR.indexOf(name)
  const root = rootBus(index % smmus)
  if (index % smmus === 0) return { ports: [], bus: `,bus=${root}` }
  const port = `pcie-root-port,id=${name}-port,bus=${root},chassis=${FIRST_CHASSIS + index}`
  return { ports: ['-device', port], bus: `,bus=${name}-port` }
}

/**
 * The words with devices that name no bus on the first root complex: where there are several, QEMU takes any bus, also that of an expander
 * bridge.
 */
function onFirstRoot(words: readonly string[], smmus: number): string[] {
  if (smmus === 1) return [...words]
  return words.map((word, i) => (words[i - 1] !== '-device' || /,bus=/.test(word) ? word : `${word},bus=${rootBus(0)}`))
}

/** A comma in a QEMU option value is written twice. */
const quote = (value: string): string => value.replaceAll(',', ',,')

const tcpAddress = ({ host, port }: { readonly host: string; readonly port: number }): string =>
  `${host.includes(':') ? `[${host}]` : host}:${port}`

/** The second serial port of the guest. */
const agentPort = (socket: string): string[] => [
  ...['-chardev', `socket,id=agent,path=${quote(socket)}`],
  ...['-serial', 'chardev:agent'],
]

/** QEMU's command line, without the binary. */
export function qemuArguments(options: QemuOptions): string[] {
  const { smmus = 1 } = options
  const ram = typeof options.ramFile === 'number' ? INHERITED_RAM : quote(options.ramFile)
  const devices = smmus > 1 && options.smmuDevices === true
  const args = [
    ['-nodefaults', '-display', 'none'],
    ['-machine', `virt,${devices ? '' : 'iommu=smmuv3,'}gic-version=3,memory-backend=ram`],
    ['-cpu', 'cortex-a57'],
    // It would reach all memory past the SMMU, and no guest here needs it.
    ['-global', 'fw_cfg_mem.dma_enabled=off'],
    ['-smp', String(options.smp)],
    ['-m', options.memory],
    ['-object', `memory-backend-file,id=ram,mem-path=${ram},size=${options.memory},share=on`],
    ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...(options.agentSocket === undefined ? [] : [agentPort(options.agentSocket)]),
    ['-qmp', `unix:${quote(options.qmpSocket)},server=on,wait=off`],
    ['-kernel', options.kernel],
    ['-append', options.append],
    ...(options.sandbox ? [['-sandbox', SANDBOX]] : []),
    ...(options.gdb === undefined ? [] : [['-gdb', options.gdb]]),
  ]
  if (options.initrd !== undefined) args.push(['-initrd', options.initrd])
  if (options.firmware !== undefined) args.push(['-bios', options.firmware])
  if (options.cosim !== undefined) {
    const { server, carveout, tokenFile, properties = [] } = options.cosim
    const memory = carveout === '0' ? [] : [`carveout=${carveout}`]
    const where = typeof server === 'string' ? `path=${quote(server)}` : `addr=${quote(tcpAddress(server))}`
    const object = ['smmu-cosim', 'id=cosim', where, ...memory, ...properties]
    if (tokenFile !== undefined) {
      args.push(['-object', `secret,id=cosim-token,file=${quote(tokenFile)}`])
      object.push('token-secret=cosim-token')
    }
    // By its place: the name of an object that an SMMU has is not the only one any more.
    args.push(['-object', object.join(',')], ['-global', 'arm-smmuv3.cosim=/objects/cosim'])
  }
  const at = (name: (typeof FOUR)[number]) => place(name, smmus)
  args.push(...(devices ? [smmuDevice(0)] : []), ...moreSmmus(smmus))
  if (options.virtioDisk !== undefined) {
    const { path, serial } = options.virtioDisk
    args.push(
      at('virtio-blk').ports,
      ['-drive', `if=none,id=vblk,format=raw,file=${quote(path)}`],
      [
        '-device',
        `virtio-blk-pci,id=virtio-blk,drive=vblk,serial=${serial},iommu_platform=on,disable-legacy=on${at('virtio-blk').bus}`,
      ],
    )
  }
  if (options.nvmeDisk !== undefined) {
    const { path, serial } = options.nvmeDisk
    args.push(
      at('nvme').ports,
      ['-drive', `if=none,id=nvme-drive,format=raw,file=${quote(path)}`],
      ['-device', `nvme,id=nvme,drive=nvme-drive,serial=${serial}${at('nvme').bus}`],
    )
  }
  if (options.network) {
    args.push(
      at('virtio-net').ports,
      at('e1000e').ports,
      ['-netdev', 'user,id=net0,net=10.0.2.0/24'],
      [
        '-device',
        `virtio-net-pci,id=virtio-net,netdev=net0,iommu_platform=on,disable-legacy=on,romfile=${at('virtio-net').bus}`,
      ],
      ['-netdev', 'user,id=net1,net=10.0.3.0/24'],
      ['-device', `e1000e,id=e1000e,netdev=net1,romfile=${at('e1000e').bus}`],
    )
  }
  if (options.share !== undefined) {
    const { path, writable } = options.share
    // What the guest makes is a plain file of the user that QEMU runs as: owners, special files and setuid bits stay extended
    // attributes.
    const how = writable ? 'security_model=mapped-xattr,fmode=0644,dmode=0755' : 'security_model=none,readonly=on'
    args.push(
      ['-fsdev', `local,id=share,path=${quote(path)},${how}`],
      onFirstRoot(
        ['-device', 'virtio-9p-pci,id=share-9p,fsdev=share,mount_tag=share,iommu_platform=on,disable-legacy=on'],
        smmus,
      ),
    )
  }
  const others = [...slotArguments(options.slots ?? 0), ...(options.devices ?? [])]
  return [...args.flat(), ...onFirstRoot(others, smmus), ...options.extra]
}

/**
 * The program that starts QEMU, and its arguments. It has a process group of its own: Ctrl-C is ours to handle. Should this process die
 * without a word, the kernel ends QEMU. With more vCPUs than processors no vCPU takes another's when it wakes up (SCHED_BATCH): mostly
 * that is the one that holds QEMU's big lock, and all wait for it then.
 */
export function qemuCommand(options: QemuOptions, processors = availableParallelism()): string[] {
  const confined = options.sandbox ? ['--no-new-privs'] : []
  const batch = options.smp > processors ? ['chrt', '--batch', '0'] : []
  return ['setpriv', '--pdeathsig', 'KILL', ...confined, ...batch, options.binary, ...qemuArguments(options)]
}

/** How a QEMU process ended. */
export interface QemuExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** It was told to, and not ended by another signal: that it may have had to be killed, because a trap was held, is no fault. */
  readonly asked: boolean
}

/** The signal that ended a program; also where a shell waited for it and tells by an exit code. */
export const signalOf = ({ code, signal }: Pick<QemuExit, 'code' | 'signal'>): NodeJS.Signals | undefined =>
  signal ?? SIGNALS.find(name => code === 128 + constants.signals[name])
const SIGNALS = Object.keys(constants.signals) as NodeJS.Signals[]

/** A running QEMU. Its standard input and output are the guest's console. */
export class QemuProcess {
  readonly child: ChildProcess
  /** What QEMU itself said on standard error, bounded. */
  errors = ''
  readonly exited: Promise<QemuExit>
  /** What it was told to end with. */
  readonly #sent = new Set<NodeJS.Signals>()

  constructor(options: QemuOptions) {
    const [program, ...command] = qemuCommand(options)
    const inherited = typeof options.ramFile === 'number' ? [options.ramFile] : []
    this.child = spawn(program, command, { stdio: ['pipe', 'pipe', 'pipe', ...inherited], detached: true })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors = (this.errors + text).slice(-16_384)
    })
    this.child.stdin?.on('error', () => {})
    this.exited = new Promise((resolve, reject) => {
      this.child.once('error', reject)
      this.child.once('close', (code, signal) => {
        const by = signalOf({ code, signal })
        resolve({ code, signal, asked: this.#sent.size > 0 && (by === undefined || this.#sent.has(by)) })
      })
    })
    this.exited.catch(() => {})
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null && this.child.pid !== undefined
  }

  /** Ends QEMU: asks first, insists after `graceMs`. */
  async stop(graceMs = 750): Promise<void> {
    if (!this.running) return
    const closed = once(this.child, 'close')
    this.#send('SIGTERM')
    const timer = setTimeout(() => this.#send('SIGKILL'), graceMs)
    await closed
    clearTimeout(timer)
  }

  #send(signal: NodeJS.Signals): void {
    this.#sent.add(signal)
    this.child.kill(signal)
  }
}
