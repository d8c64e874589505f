// SPDX-License-Identifier: Apache-2.0
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cachePath, entries, exists, logPath } from './cache.ts'
import { run, SetupError } from './run.ts'

/** A package archive of its own, next to the machine's: other suite, other architecture, same mirror. */
export type Suite = 'trixie' | 'trixie-backports' | 'bookworm' | 'sid'

const ARCHITECTURE = 'arm64'

/** Suites whose package lists this process has fetched: once is enough. */
const updated = new Set<Suite>()

/** Debian's keyring under the names that Debian 12 and later releases give it. */
const KEYRINGS = ['gpg', 'pgp'].map(extension => `/usr/share/keyrings/debian-archive-keyring.${extension}`)

/**
 * Fetches packages of another Debian release through apt, which checks every signature and hash, without
 * touching the machine's apt configuration: sources, lists and package state are private, proxies stay shared.
 */
export class PrivateApt {
  readonly #config: string
  readonly #signal: AbortSignal | undefined

  private constructor(config: string, signal: AbortSignal | undefined) {
    this.#config = config
    this.#signal = signal
  }

  /** Prepares the root of a suite in the cache and fetches its package lists. */
  static async open(suite: Suite, signal?: AbortSignal): Promise<PrivateApt> {
    const root = cachePath('apt', suite)
    await mkdir(join(root, 'lists/partial'), { recursive: true })
    await mkdir(join(root, 'archives/partial'), { recursive: true })
    await writeFile(join(root, 'status'), '')
    await writeFile(join(root, 'sources.list'), sourcesList(await machineMirror(signal), suite, await keyring()))
    const config = join(root, 'apt.conf')
    await writeFile(config, configuration(root))
    const apt = new PrivateApt(config, signal)
    if (!updated.has(suite)) await apt.#run('apt-get', ['update', '--error-on=any'])
    updated.add(suite)
    return apt
  }

  /** Downloads one binary package and returns the path of its .deb. */
  async download(name: string, dir: string): Promise<string> {
    return this.#fetch(['download', name], dir, '.deb')
  }

  /** The versions of a source package that the suite has, with their epochs: a newer one may not have been built everywhere yet. */
  async sourceVersions(name: string): Promise<string[]> {
    const text = await this.#run('apt-cache', ['showsrc', '--only-source', name])
    return [...text.matchAll(/^Version: (.*)$/gm)].map(match => match[1] ?? '')
  }

  /** Downloads a version of a source package and returns the path of its .dsc. */
  async source(name: string, version: string, dir: string): Promise<string> {
    return this.#fetch(['source', '--download-only', `${name}=${version}`], dir, '.dsc')
  }

  /** The value of a field of the newest version of a package. */
  async field(name: string, field: string): Promise<string> {
    const text = await this.#run('apt-cache', ['show', '--no-all-versions', name])
    const value = new RegExp(`^${field}: (.*)$`, 'm').exec(text)?.[1]
    if (value === undefined) throw new SetupError(`package ${name} has no field ${field}`)
    return value
  }

  /** Names of packages that begin with `prefix`. */
  async names(prefix: string): Promise<string[]> {
    return (await this.#run('apt-cache', ['pkgnames', prefix])).split('\n').filter(Boolean)
  }

  async #fetch(args: string[], dir: string, extension: string): Promise<string> {
    await mkdir(dir, { recursive: true })
    await this.#run('apt-get', args, dir)
    const file = (await entries(dir)).find(name => name.endsWith(extension))
    if (file === undefined) throw new SetupError(`apt-get ${args.join(' ')} left no ${extension} file in ${dir}`)
    return join(dir, file)
  }

  #run(command: string, args: string[], cwd?: string): Promise<string> {
    return run(command, ['-q', ...args], {
      step: 'fetching from the Debian archive',
      log: logPath('apt'),
      env: { APT_CONFIG: this.#config },
      signal: this.#signal,
      ...(cwd === undefined ? {} : { cwd }),
    })
  }
}

async function keyring(): Promise<string> {
  for (const path of KEYRINGS) if (await exists(path)) return path
  throw new SetupError(`Debian's archive keyring is missing (${KEYRINGS.join(' or ')}): install debian-archive-keyring`)
}

async function machineMirror(signal: AbortSignal | undefined): Promise<string> {
  const uris = await run('apt-get', ['update', '--print-uris'], {
    step: "reading this machine's apt sources",
    log: logPath('apt'),
    signal,
  })
  return chooseMirror(uris)
}

/** The Debian mirror among the URIs that `apt-get update` would fetch, in whatever format they are configured. */
export function chooseMirror(printedUris: string): string {
  // A suite with a dash is a side archive: bookworm-security, bookworm-updates, bookworm-backports.
  const archives = [...printedUris.matchAll(/^'(\S+?)\/+dists\/[a-z]+\/InRelease'/gm)].map(match => match[1] ?? '')
  const nameEndsIn = (path: RegExp) => archives.find(archive => path.test(archive))
  const mirror = nameEndsIn(/^[^/]*\/\/[^/]+\/debian$/) ?? nameEndsIn(/\/debian$/) ?? archives[0]
  if (mirror === undefined)
    throw new SetupError('apt has no Debian archive configured: set-up takes the mirror from there')
  return mirror
}

/** The private root's sources: nothing but package and source lists, whatever else the machine's apt would fetch. */
export function sourcesList(mirror: string, suite: Suite, keyringPath: string): string {
  return ['deb', 'deb-src']
    .map(
      type =>
        `${type} [signed-by=${keyringPath} target=${type === 'deb' ? 'Packages' : 'Sources'}] ${mirror} ${suite} main\n`,
    )
    .join('')
}

function configuration(root: string): string {
  return `\
Dir::State "${root}";
Dir::State::lists "lists";
Dir::State::status "${root}/status";
Dir::Cache "${root}";
Dir::Etc::sourcelist "${root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "${ARCHITECTURE}";
#clear APT::Architectures;
APT::Architectures { "${ARCHITECTURE}"; };
Acquire::Languages "none";
// The cache folder need not be open to the user that apt downloads as.
APT::Sandbox::User "root";
// Hooks of the machine are for the machine's package lists.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`
}
