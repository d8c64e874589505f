// SPDX-License-Identifier: Apache-2.0
/**
 * The compose file: that it means what it says, and where there is a Docker engine, that it runs. Images that were never
 * built take too long to be built by the way: that is done when SMMU_COSIM_DOCKER is set. Images of former sources
 * are brought up to date, if that takes no longer than UPDATE_MS.
 */
import { type ExecFileException, execFile, execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { appendFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hostPackages } from '../../scripts/setup/packages.ts'
import { parseSize, privateFolder } from '../../server/machine/scratch.ts'
import { DEFAULTS } from '../../server/run/options.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FILE = join(ROOT, 'compose.yaml')
const FILES = ['compose.yaml', '.env', 'package.json', 'package-lock.json', 'tsconfig.json', 'LICENSE']
const BUILD_MS = 3_600_000
const UPDATE_MS = 180_000

function answers(...args: string[]): boolean {
  try {
    execFileSync('docker', args, { stdio: 'ignore', timeout: 20_000 })
    return true
  } catch {
    return false
  }
}

interface Service {
  readonly user: string
  readonly image: string
  readonly command: string[] | null
  readonly depends_on?: object
  readonly network_mode?: string
  readonly ipc?: string
  readonly read_only?: boolean
  readonly cap_add?: string[]
  readonly cap_drop?: string[]
  readonly privileged?: boolean
  readonly security_opt?: string[]
  readonly mem_limit?: string
  readonly pids_limit?: number
  readonly ports?: { readonly host_ip?: string; readonly published: string; readonly target: number }[]
  readonly volumes?: {
    readonly type: string
    /** Absent: it has no name, and is this container's alone. */
    readonly source?: string
    readonly target: string
    readonly read_only?: boolean
  }[]
}

interface Named {
  readonly name: string
}

interface Project extends Named {
  readonly services: Record<string, Service>
  readonly volumes: Record<string, Named>
  readonly networks: Record<string, Named>
}

function project(profile: string, env: NodeJS.ProcessEnv = {}, file = FILE): Project {
  const { COMPOSE_PROJECT_NAME: _, ...inherited } = process.env
  const args = ['compose', '--profile', profile, 'config', '--format', 'json']
  const cwd = dirname(file)
  const text = execFileSync('docker', args, { encoding: 'utf8', cwd, env: { ...inherited, PWD: cwd, ...env } })
  return JSON.parse(text) as Project
}

const config = (profile: string, env: NodeJS.ProcessEnv = {}) => project(profile, env).services

const compose = answers('compose', 'version')
const engine = compose && answers('info')

describe.skipIf(!compose)(`the compose file${compose ? '' : ' (skipped: there is no docker compose)'}`, () => {
  test.each([
    ['dev', ['qemu', 'server']],
    ['ci', ['ci']],
    ['faults', ['faults']],
    ['fleet', ['queue', 'worker']],
    ['campaign', ['campaign', 'queue']],
  ])('profile %s', (profile, names) => {
    const services = config(profile)
    expect(Object.keys(services).sort()).toEqual(names)
    for (const [name, service] of Object.entries(services)) {
      expect(service, name).toMatchObject({ user: '1000:1000', read_only: true, cap_drop: ['ALL'] })
      expect(service.cap_add, name).toBeUndefined()
      expect(service.privileged, name).toBeUndefined()
      expect(service.security_opt, name).toEqual(['no-new-privileges:true'])
      expect(service.mem_limit, name).toBeDefined()
      expect(service.pids_limit, name).toBeGreaterThan(0)
      for (const port of service.ports ?? []) expect(port.host_ip, name).toBe('127.0.0.1')
      for (const volume of service.volumes ?? []) {
        expect(volume.source ?? '', name).not.toContain('docker.sock')
        if (volume.target.startsWith('/app/') && volume.type === 'bind') expect(volume.read_only, name).toBe(true)
      }
    }
  })

  test('whoever builds the dashboard, or a page of a campaign, has a place for it: the image is read-only', () => {
    const services = { ...config('dev'), ...config('ci'), ...config('faults'), ...config('campaign') }
    for (const name of ['server', 'ci', 'faults', 'campaign']) {
      const place = services[name]?.volumes?.find(({ target }) => target === '/app/node_modules/.cache')
      expect(place, name).toMatchObject({ type: 'volume', source: 'web' })
    }
  })

  test('dev is what is started when no profile is named', () => {
    const { COMPOSE_PROFILES: _, ...env } = process.env
    const args = ['compose', '-f', FILE, 'config', '--services']
    const services = execFileSync('docker', args, { encoding: 'utf8', env: { ...env, PWD: ROOT } })
    expect(services.trim().split('\n').sort()).toEqual(['qemu', 'server'])
  })

  test('the user, the port and the folder of runs are the caller’s choice', () => {
    const { server, qemu } = config('dev', {
      COSIM_UID: '1234',
      COSIM_GID: '99',
      COSIM_PORT: '9000',
      COSIM_RUNS: '/tmp/x',
    })
    expect(server?.user).toBe('1234:99')
    expect(qemu?.ports).toMatchObject([{ published: '9000', target: 9000 }])
    // It prints the port that it listens on.
    expect(server?.command).toContain('--dashboard=9000')
    expect(server?.volumes?.find(({ target }) => target === '/state')?.source).toBe('/tmp/x')
  })

  test('who takes the room for guest RAM may have it, and a type checker besides', () => {
    const { qemu: _, ...services } = { ...config('dev'), ...config('ci'), ...config('faults') }
    expect(Object.keys(services)).toEqual(['server', 'ci', 'faults'])
    for (const [name, { mem_limit }] of Object.entries(services)) {
      expect(Number(mem_limit), name).toBeGreaterThanOrEqual(parseSize(DEFAULTS.memory) + 3 * 2 ** 30)
    }
  })

  test('a fleet: any number of workers, each by itself, that know of the queue what lets them in', () => {
    const { worker, queue, campaign } = { ...config('campaign'), ...config('fleet') }
    const places = ({ volumes = [] }: Service) =>
      volumes.map(({ type, source, target, read_only }) => ({ type, source, target, read_only }))
    // What one worker writes no other one sees, but for snapshots, which have names by their content and locks.
    const named = places(worker).filter(({ source }) => source !== undefined)
    expect(named.map(({ target, read_only = false }) => [target, read_only]).sort()).toEqual([
      ['/cache/smmu-cosim/snapshot', false],
      ['/queue', true],
    ])
    // The key of the queue is in a volume of its own.
    expect(places(queue).map(({ source, target }) => [source, target])).toEqual([
      ['queue', '/data'],
      ['access', '/queue'],
    ])
    expect(worker.ports).toBeUndefined()
    for (const { command } of [worker, campaign]) {
      expect(command).toEqual(expect.arrayContaining(['--queue=rediss://fleet@queue', '--queue-ca=/queue/ca.pem']))
      expect(command?.join(' ')).not.toMatch(/password=(?!\/)/)
    }
    expect(config('fleet', { COSIM_QUEUE_LISTEN: '192.0.2.7' }).queue.ports).toMatchObject([{ host_ip: '192.0.2.7' }])
  })

  test.each(['ci', 'faults'])('%s needs no other container, and takes no port', name => {
    const { [name]: service, ...others } = config(name)
    expect(others).toEqual({})
    expect(service).toBeDefined()
    for (const key of ['ports', 'depends_on', 'network_mode', 'ipc'] as const)
      expect(service?.[key], key).toBeUndefined()
    // Of a volume that containers share, what is in it is theirs together: sockets and disks of a machine are not.
    const run = service?.volumes?.find(({ target }) => target === '/run/cosim')
    expect(run).toMatchObject({ type: 'volume' })
    expect(run?.source).toBeUndefined()
  })

  test('clones, in folders of the same name too, have no container, volume, network or image in common', () => {
    const folder = privateFolder(tmpdir(), 'clones-')
    const [one, two] = ['one', 'two'].map(parent => {
      const clone = join(folder, parent, 'smmu-cosim')
      mkdirSync(clone, { recursive: true })
      const file = join(clone, 'compose.yaml')
      cpSync(FILE, file)
      const { name, services, volumes, networks } = project('*', {}, file)
      expect(name).toBe(clone.toLowerCase().replace(/[^a-z0-9_-]/g, ''))
      return [
        ...[...Object.values(volumes), ...Object.values(networks)].map(part => part.name),
        ...Object.values(services).map(({ image }) => image),
      ]
    })
    rmSync(folder, { recursive: true })
    expect(one?.length).toBeGreaterThan(8)
    expect(one?.filter(name => two?.includes(name))).toEqual([])
  })

  test('where nothing says which clone it is, Compose names no project', () => {
    const { PWD: _, ...env } = process.env
    const { status, stderr } = spawnSync('docker', ['compose', 'config'], { cwd: ROOT, env, encoding: 'utf8' })
    expect(status).not.toBe(0)
    expect(stderr).toContain('required variable PWD is missing a value: the project is named after it')
  })
})

test('the image has the system packages that set-up asks for', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const trixie = 'ID=debian\nVERSION_ID="13"\n'
  for (const name of hostPackages(trixie)) expect(dockerfile.split(/\s+/)).toContain(name)
})

/** Modules that a module imports, when it is loaded or later, and those that they import. */
function loaded(file: string, known = new Set<string>()): Set<string> {
  if (known.has(file)) return known
  known.add(file)
  const text = readFileSync(file, 'utf8')
  const imports = /^(?:import|export) (?:[^'"]*? from )?'(\.[^']+)'|\bimport\('(\.[^']+)'\)|new URL\('(\.[^']+\.ts)'/gm
  for (const [, ...from] of text.matchAll(imports)) loaded(join(dirname(file), from.join('')), known)
  return known
}

test('the image of the server has all that the command line loads', () => {
  const [, server = ''] = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8').split(/^FROM base AS server$/m)
  const copied = [...server.matchAll(/^COPY (?!-)(.+) \S+$/gm)].flatMap(([, from = '']) => from.split(' '))
  const ignored = readFileSync(join(ROOT, 'docker/Dockerfile.dockerignore'), 'utf8').split('\n')
  for (const part of copied.filter(part => !part.startsWith('docker/'))) expect(ignored).toContain(`!${part}`)
  const files = [...loaded(join(ROOT, 'server/cli/main.ts'))].map(file => relative(ROOT, file))
  expect(files.length).toBeGreaterThan(100)
  expect(files).toContain('test/bench/run.ts')
  expect(files.filter(file => !copied.some(part => file === part || file.startsWith(`${part}/`)))).toEqual([])
})

test('the image of the server, which has no compiler, has the program that the benchmark compiles', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const source = readFileSync(join(ROOT, 'test/bench/pingpong.ts'), 'utf8')
  const [, flags = ''] = /run\('cc', \[(.*?), '-o'/.exec(source) ?? []
  expect(flags).not.toBe('')
  expect(dockerfile).toContain(`RUN cc ${flags.replace(/[',]/g, '')} -o /usr/local/bin/pingpong `)
  const [, server = ''] = dockerfile.split(/^FROM base AS server$/m)
  expect(server).toContain('COPY --from=pingpong /usr/local/bin/pingpong /usr/local/bin/\n')
  expect(server).toContain('ENV SMMU_COSIM_PINGPONG=/usr/local/bin/pingpong\n')
})

/** What a Dockerfile takes from a registry when nobody says otherwise, and not from a stage of its own. */
function pulled(dockerfile: string): string[] {
  const stages = [...dockerfile.matchAll(/^FROM (\S+)(?: AS (\S+))?$/gm)]
  const names = stages.map(([, , name]) => name)
  const copied = [...dockerfile.matchAll(/(?:--from=|,from=)([^\s,]+)/g)]
  const images = [...stages, ...copied].map(([, from = '']) => from)
  return images.filter(from => !names.includes(from)).map(from => from.replace(/^\$\{\w+:-(.*)\}$/, '$1'))
}

test('of images that are pulled there is one, named by its digest beside its tag', () => {
  const [image, ...others] = ['docker/Dockerfile', '.devcontainer/Dockerfile'].flatMap(name =>
    pulled(readFileSync(join(ROOT, name), 'utf8')),
  )
  expect(image).toMatch(/^debian:trixie-slim@sha256:[0-9a-f]{64}$/)
  expect(others).toEqual([image])
  expect(readFileSync(join(ROOT, '.github/workflows/ci.yml'), 'utf8')).toContain(`\n      image: ${image}\n`)
  expect(pulled('FROM a:1 AS b\nFROM b\nCOPY --from=c:2 /d /e\nRUN --mount=type=bind,from=f,target=/g true\n')).toEqual(
    ['a:1', 'c:2', 'f'],
  )
})

test('npm is the one that package.json names by its hash, without the packages that Debian’s wants', () => {
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { packageManager: string }
  expect(packageManager).toMatch(/^npm@\d+\.\d+\.\d+\+sha512\.[0-9a-f]{128}$/)
  for (const name of ['docker/Dockerfile', '.devcontainer/Dockerfile', '.github/workflows/ci.yml']) {
    const text = readFileSync(join(ROOT, name), 'utf8').replaceAll('\\\n', ' ')
    const installed = Array.from(text.matchAll(/apt-get install (.*?)(?:&&|$)/gm), ([, words = '']) =>
      words.split(/ +/),
    ).flat()
    expect(installed).toContain('node-corepack')
    expect(installed).not.toContain('npm')
    expect(text).toMatch(/ corepack (?:npm install|enable --install-directory \/usr\/local\/bin npm)(?: |$)/m)
  }
})

test('another base is the caller’s choice, of dev containers too', () => {
  const { build } = JSON.parse(readFileSync(join(ROOT, '.devcontainer/devcontainer.json'), 'utf8')) as {
    build: { args: object }
  }
  // A default after a second colon would end at a third one.
  expect(build.args).toEqual({ BASE: `\${localEnv:COSIM_BASE}` })
  expect(readFileSync(join(ROOT, '.devcontainer/Dockerfile'), 'utf8')).toMatch(/^ARG BASE\n(?:#.*\n)*FROM \$\{BASE:-/m)
})

test('no stage names a platform', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  expect(dockerfile).not.toMatch(/--platform|amd64\b(?!,)|x86_64|aarch64-linux/)
})

const wanted = process.env.SMMU_COSIM_DOCKER !== undefined
const TAG = 'debian:trixie-slim'
/** Of the containers that are tested here; the images are kept. */
const PROJECT = `cosim-test-${createHash('sha256').update(ROOT).digest('hex').slice(0, 8)}`
const built = (name: string) => answers('image', 'inspect', `${name}-qemu`, `${name}-server`, `${name}-worker`)
const images = engine && (built(PROJECT) || built(project('dev').name))
const why = !engine
  ? ' (skipped: no Docker engine answers)'
  : wanted || images
    ? ''
    : ' (skipped: the images were never built; with SMMU_COSIM_DOCKER=1 they are)'

describe.skipIf(!engine || !(wanted || images))(`containers${why}`, () => {
  let runs: string
  /** A tree of its own, so that files can be edited. */
  let tree: string
  let env: NodeJS.ProcessEnv
  let port: number
  let tooSlow = false

  const runUntil = async (
    signal: AbortSignal | undefined,
    ...args: string[]
  ): Promise<{ code: number; output: string }> => {
    const all = ['compose', '-p', PROJECT, '-f', join(tree, 'compose.yaml'), ...args]
    try {
      const { stdout, stderr } = await promisify(execFile)('docker', all, { env, maxBuffer: 1 << 26, signal })
      return { code: 0, output: stdout + stderr }
    } catch (error) {
      const { code, stdout, stderr } = error as ExecFileException & { stdout: string; stderr: string }
      return { code: Number(code ?? -1), output: stdout + stderr }
    }
  }
  const run = (...args: string[]) => runUntil(undefined, ...args)

  beforeAll(async () => {
    const folder = privateFolder(tmpdir(), 'docker-')
    runs = join(folder, 'runs')
    mkdirSync(runs)
    tree = join(folder, 'tree')
    for (const part of [
      'docker',
      'server',
      'protocol',
      'scripts',
      'qemu-patches',
      'test/bench',
      'test/fuzz',
      'test/unit/smmu',
      ...FILES,
    ]) {
      cpSync(join(ROOT, part), join(tree, part), { recursive: true, preserveTimestamps: true })
    }
    const free = createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    port = (free.address() as AddressInfo).port
    free.close()
    env = {
      ...process.env,
      PWD: tree,
      // A Debian 13 that is here already: no registry need be reached for these tests.
      ...(process.env.COSIM_BASE === undefined && answers('image', 'inspect', TAG) && { COSIM_BASE: TAG }),
      COSIM_RUNS: runs,
      COSIM_PORT: String(port),
      COSIM_UID: String(process.getuid?.() || 1000),
      COSIM_GID: String(process.getgid?.() || 1000),
    }
    if (process.getuid?.() === 0) execFileSync('chown', ['1000:1000', runs])
    const limit = AbortSignal.timeout(wanted ? BUILD_MS : UPDATE_MS)
    const built = await runUntil(limit, '--profile', 'dev', '--profile', 'ci', 'build')
    tooSlow = limit.aborted && !wanted
    if (!tooSlow) expect(built.code, built.output.slice(-4000)).toBe(0)
  }, BUILD_MS)

  beforeEach(({ skip }) =>
    skip(
      tooSlow,
      `the images are not up to date after ${UPDATE_MS / 1000} s; with SMMU_COSIM_DOCKER=1 it may take longer`,
    ),
  )

  afterAll(async () => {
    await run('--profile', '*', 'down', '--volumes', '--timeout', '5')
    rmSync(join(runs, '..'), { recursive: true, force: true })
    const left = execFileSync('docker', ['ps', '-aq', '--filter', `label=com.docker.compose.project=${PROJECT}`])
    expect(left.toString()).toBe('')
    const volumes = execFileSync('docker', [
      'volume',
      'ls',
      '-q',
      '--filter',
      `label=com.docker.compose.project=${PROJECT}`,
    ])
    expect(volumes.toString()).toBe('')
  }, 120_000)

  // First, while no container has the port.
  test('a port that is taken: it is said, nothing runs, and nothing is in the way of the next start', async () => {
    const other = createServer().listen(port, '127.0.0.1')
    await once(other, 'listening')
    const failed = await run('--profile', 'dev', 'up', '--detach')
    expect(failed.code).not.toBe(0)
    expect(failed.output).toMatch(/already (?:allocated|in use)/)
    const ids = async (...which: string[]) => (await run('--profile', 'dev', 'ps', '--quiet', ...which)).output.trim()
    expect(await ids('--status=running')).toBe('')
    // The command that docker/README.md shows, of which nothing is left.
    expect(readFileSync(join(ROOT, 'docker/README.md'), 'utf8')).toContain(
      'docker compose up --build || docker compose down\n',
    )
    expect((await run('--profile', 'dev', 'up')).code).not.toBe(0)
    other.close()
    expect((await run('--profile', 'dev', 'down')).code).toBe(0)
    expect(await ids('--all')).toBe('')
  }, 300_000)

  test('ci: boots, works, and ends with the outcome, whoever has the port; and nothing is left of it', async () => {
    const other = createServer().listen(port, '127.0.0.1')
    await once(other, 'listening')
    const words = ['run', '--rm', 'ci', 'boot', '--quiet', '--timeout=600', '--report=/state/ci.json']
    const { code, output } = await run(...words)
    other.close()
    expect(code, output.slice(-4000)).toBe(0)
    expect((await run('--profile', '*', 'ps', '--all', '--quiet')).output.trim()).toBe('')
    expect(JSON.parse(readFileSync(join(runs, 'ci.json'), 'utf8'))).toMatchObject({ outcome: 'ok', policy: 'pkvm' })
  }, 900_000)

  test('a command in the guest, a folder, and a scenario: the guest has an agent, though there is no compiler', async () => {
    const command = await run('run', '--rm', 'ci', 'boot', '--timeout=600', '--exec', 'echo $((6 * 7))-said; exit 7')
    expect(command.code, command.output.slice(-4000)).toBe(7)
    expect(command.output).toMatch(/^42-said$/m)
    const shared = join(runs, 'shared')
    mkdirSync(shared)
    writeFileSync(join(shared, 'here'), 'shared\n')
    const mount = ['run', '--rm', '--volume', `${shared}:/here:ro`, 'ci']
    const file = await run(...mount, 'boot', '--timeout=600', '--share=/here', '--exec', 'cat /share/here')
    expect(file.code, file.output.slice(-4000)).toBe(0)
    expect(file.output).toMatch(/^shared$/m)
    const [, scenario = ''] =
      /^```ts\n(.*?)^```/ms.exec(readFileSync(join(ROOT, 'server/testing/README.md'), 'utf8')) ?? []
    const tests = join(runs, 'tests')
    mkdirSync(tests)
    writeFileSync(join(tests, 'my.test.ts'), scenario)
    const { code, output } = await run(
      ...[
        'run',
        '--rm',
        '--volume',
        `${tests}:/tests`,
        '--workdir',
        '/tests',
        'ci',
        'test',
        '--junit',
        '/state/tests.xml',
      ],
    )
    expect(code, output.slice(-4000)).toBe(0)
    expect(readFileSync(join(runs, 'tests.xml'), 'utf8')).toContain('tests="1" failures="0"')
  }, 900_000)

  test('clones in folders of the same name have containers and volumes of their own', async () => {
    const clones = ['one', 'two'].map(parent => join(dirname(tree), parent, 'smmu-cosim'))
    const names = clones.map(clone => {
      mkdirSync(clone, { recursive: true })
      for (const part of ['compose.yaml', '.env', 'docker'])
        cpSync(join(ROOT, part), join(clone, part), { recursive: true })
      return project('dev', {}, join(clone, 'compose.yaml')).name
    })
    const docker = (...args: string[]) => execFileSync('docker', args, { encoding: 'utf8' }).trim().split('\n').sort()
    const { COMPOSE_PROJECT_NAME: _, ...others } = env
    const from = (clone: string) => ({ cwd: clone, env: { ...others, PWD: clone } })
    const containers = () =>
      clones.map(at => docker('ps', '-aq', '--filter', `label=com.docker.compose.project.working_dir=${at}`))
    try {
      for (const [index, name] of names.entries()) {
        docker('tag', `${PROJECT}-qemu`, `${name}-qemu`)
        await promisify(execFile)('docker', ['compose', 'create', '--no-build', 'qemu'], from(clones[index] ?? ''))
      }
      for (const ids of containers()) expect(ids).toEqual([expect.stringMatching(/^[0-9a-f]+$/)])
      const volumes = names.map(name =>
        docker('volume', 'ls', '-q', '--filter', `label=com.docker.compose.project=${name}`),
      )
      expect(volumes).toEqual(names.map(name => [`${name}_run`, `${name}_web`]))
    } finally {
      for (const at of clones)
        await promisify(execFile)('docker', ['compose', 'down', '--volumes', '--rmi=all'], from(at))
    }
    for (const ids of containers()) expect(ids).toEqual([''])
  }, 300_000)

  test('a device beside the usual four', async () => {
    const { code, output } = await run('run', '--rm', 'ci', 'boot', '--quiet', '--timeout=600', '--device', 'ahci')
    expect(code, output.slice(-4000)).toBe(0)
    expect(output).toMatch(/ahci/)
  }, 900_000)

  test('every command of the command line is there', async () => {
    const help = await run('run', '--rm', 'ci', '--help')
    const names = [...help.output.matchAll(/^ {2}([a-z]+) .*/gm)]
      .map(([, name = '']) => name)
      .filter(name => name !== 'help')
    expect(names).toEqual(expect.arrayContaining(['boot', 'dev', 'serve', 'faults', 'attack', 'bench', 'fuzz']))
    const script = names.map(name => `echo "${name}: $(smmu-cosim ${name} --help | head -1)"`).join(' && ')
    const { code, output } = await run('run', '--rm', '--entrypoint', 'sh', 'ci', '-c', script)
    expect(code, output).toBe(0)
    for (const name of names) expect(output).toMatch(new RegExp(`^${name}: Usage: smmu-cosim ${name} `, 'm'))
  }, 300_000)

  test(`bench --quick: what is measured${wanted ? '' : ' first (with SMMU_COSIM_DOCKER=1: all)'}`, async ({
    signal,
  }) => {
    const only = wanted ? [] : ['--only=trap,commands']
    const words = ['run', '--rm', 'ci', 'bench', '--quick', '--json=/state/bench.json', ...only]
    // One that takes too long is ended: its machine would be in the way of the next test.
    const { code, output } = await runUntil(signal, ...words)
    expect(code, output.slice(-4000)).toBe(0)
    expect(JSON.parse(readFileSync(join(runs, 'bench.json'), 'utf8'))).toMatchObject({ failures: [] })
  }, 1_700_000)

  test('dev: a source file is saved, and the same guest is answered by the new code', async () => {
    const up = await run('--profile', 'dev', 'up', '--detach', '--wait', '--wait-timeout', '600')
    expect(up.code, up.output.slice(-4000)).toBe(0)
    const logs = async () => (await run('--profile', 'dev', 'logs', '--no-log-prefix', 'server')).output
    const url = /http:\S+:(\d+)\/#token=\S+/.exec(await logs())
    expect(url?.[1]).toBe(String(port))
    const address = `127.0.0.1:${port}`
    expect((await fetch(`http://${address}/health`)).ok).toBe(true)
    expect((await fetch(`http://${address}/api/v1/machine`)).status).toBe(401)
    const token = /#token=(\S+)/.exec(await logs())?.[1]
    const headers = { authorization: `Bearer ${token}` }
    const api = async (path: string, body?: object) => {
      const method = body === undefined ? 'GET' : 'POST'
      const type = body === undefined ? {} : { 'content-type': 'application/json' }
      const init = { method, headers: { ...headers, ...type }, ...(body && { body: JSON.stringify(body) }) }
      const answer = await fetch(`http://${address}/api/v1/${path}`, init)
      return answer.status === 204 ? {} : ((await answer.json()) as { phase?: string; text?: string })
    }
    const phase = async () => (await api('machine')).phase
    const seen = async () => (await api('machine/console')).text
    await expect.poll(phase, { timeout: 300_000, interval: 1_000 }).toBe('userspace')

    // Code that keeps from Linux that its commands were consumed: Linux complains. The old code again: it goes on.
    const file = join(tree, 'server/hypervisor/pkvm/hostCmdq.ts')
    const source = readFileSync(file, 'utf8')
    const stuck = source
      .replace('posts && this.#predictsCons && left === 0 ? cons : null', 'null')
      .replace(
        /readCons\(\): number \{/,
        '$& if (this.registers.prod >= 0) return Math.max(0, this.registers.cons - 1)',
      )
    expect(stuck).toContain('submit(null)')
    expect(stuck).toContain('registers.cons - 1)')
    const replaced = async () => (await logs()).split('hostCmdq.ts: new code in place').length - 1
    writeFileSync(file, stuck)
    await expect.poll(replaced, { timeout: 60_000, interval: 500 }).toBe(1)
    await api('machine/console', { text: 'dd if=/dev/vda of=/dev/null bs=65536 count=4 iflag=direct\n' })
    await expect.poll(seen, { timeout: 60_000, interval: 500 }).toContain('CMD_SYNC timeout')
    writeFileSync(file, source)
    await expect.poll(replaced, { timeout: 60_000, interval: 500 }).toBe(2)
    await api('machine/console', { text: 'echo goes-on-$((6 * 7))\n' })
    await expect.poll(seen, { timeout: 60_000, interval: 500 }).toContain('goes-on-42')

    // The type checker has the same sources as on the host: it complains of this, and when it is mended, of nothing.
    appendFileSync(file, "export const wrong: number = 'seven'\n")
    const errors = async () => (await logs()).split('\n').filter(line => line.includes('type error: '))
    const wrong = expect.stringContaining('type error: server/hypervisor/pkvm/hostCmdq.ts')
    await expect.poll(errors, { timeout: 120_000, interval: 500 }).toEqual([wrong])
    writeFileSync(file, source)
    const none = expect.stringContaining('type error: none any more')
    await expect.poll(errors, { timeout: 120_000, interval: 500 }).toEqual([wrong, none])
    appendFileSync(file, 'export const = nothing\n')
    await expect.poll(logs, { timeout: 60_000, interval: 500 }).toContain('the old code goes on')
    expect(await phase()).toBe('userspace')

    // Another machine beside it has no part in it.
    const beside = await run('run', '--rm', 'ci', 'boot', '--timeout=600', '--exec', 'echo beside-$((6 * 7))')
    expect(beside.code, beside.output.slice(-4000)).toBe(0)
    expect(beside.output).toMatch(/^beside-42$/m)
    expect(await phase()).toBe('userspace')

    // Its guest RAM is in memory that both containers see, and has a name there.
    const shared = async () => (await run('--profile', 'dev', 'exec', 'qemu', 'ls', '/dev/shm')).output.trim()
    expect(await shared()).toContain('smmu-cosim.')
    await run('--profile', 'dev', 'kill', '--signal=KILL', 'server')
    await expect.poll(shared, { timeout: 30_000, interval: 500 }).toBe('')
  }, 1_200_000)
})
